"""What people write: files that hold JSON, its fields and their faults. Knows no images."""
