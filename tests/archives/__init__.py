"""Tests of `stream/archives`."""
