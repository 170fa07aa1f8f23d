"""Tests of `stream/digests`."""
