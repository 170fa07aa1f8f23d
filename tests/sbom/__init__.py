"""Tests of `stream/sbom`."""
