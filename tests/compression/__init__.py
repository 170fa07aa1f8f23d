"""Tests of `stream/compression`."""
