"""Tests of `stream/oci`."""
