"""Images in registries: how a registry is reached, and what it gives and takes."""
