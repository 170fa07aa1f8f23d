"""The commands of a recipe: their tree on disk, and the program that runs them."""
