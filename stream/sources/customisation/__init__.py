"""The customisation layer made from a recipe: a tree in memory, bytes to come."""
