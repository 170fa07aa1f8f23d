"""Where layers come from: sources of known size, bytes to come."""
