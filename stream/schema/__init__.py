"""Read the JSON that people write: files, fields and their faults. Must not know images."""
