"""Tests of `stream/nix`."""
