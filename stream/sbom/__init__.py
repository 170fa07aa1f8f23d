"""Software bills of materials: what is in an image, in the formats that scanners read."""
