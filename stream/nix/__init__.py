"""What Nix writes and knows: hashes, closures, its database. Knows no images."""
