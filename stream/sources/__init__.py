"""The sources of layers: their size is known before their bytes are read."""
