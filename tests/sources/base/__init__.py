"""Tests of `stream/sources/base`."""
