"""Benchmarks: what `stream` is measured against, and what it is measured on."""
