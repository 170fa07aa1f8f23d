"""The base image: listed in one pass, then copied layer by layer."""
