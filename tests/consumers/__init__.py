"""Real consumers of images, each with a cold store in its own namespaces."""
