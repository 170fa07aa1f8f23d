"""Tests of `stream/sinks`."""
