"""Readers for image archives written by other programs, and for the tars in them."""
