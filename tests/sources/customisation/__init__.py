"""Tests of `stream/sources/customisation`."""
