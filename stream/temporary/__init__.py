"""Temporary files, which are gone at the end, however a run ends."""
