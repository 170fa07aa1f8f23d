"""Decide which store paths share a layer. Pure functions from graphs to lists of layers."""
