"""Where layers go: each module is one output format."""
