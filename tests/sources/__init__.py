"""Tests of `stream/sources`."""
