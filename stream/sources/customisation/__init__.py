"""The customisation layer: ready-made, or made from a recipe as a tree in memory."""
