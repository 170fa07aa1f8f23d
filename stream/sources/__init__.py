"""Where layers come from: each module makes sources of known size, bytes to come."""
