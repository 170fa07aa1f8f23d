"""Tests of `nix/`, with real Nix."""
