"""Real consumers of images, each run from a cold store in namespaces of its own."""
