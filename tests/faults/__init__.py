"""Failures while an image is written, injected at a known place."""
