"""The base image: read once for what matters, then copied layer by layer."""
