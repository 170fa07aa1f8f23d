"""Nix's own formats and answers: hashes, closures, its database. Must not know images."""
