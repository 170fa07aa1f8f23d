"""Tests of `stream/tools`."""
