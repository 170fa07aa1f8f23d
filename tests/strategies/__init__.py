"""Tests of `stream/strategies`."""
