"""Registries: the two sides of the distribution protocol."""
