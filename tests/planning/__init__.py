"""Tests of `stream/planning`."""
