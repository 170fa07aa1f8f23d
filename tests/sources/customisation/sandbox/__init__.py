"""Tests of `stream/sources/customisation/sandbox`."""
