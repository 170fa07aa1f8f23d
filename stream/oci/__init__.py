"""What the OCI specifications say: documents, names, platforms. Knows no files."""
