"""Formats of the OCI specifications: documents, names, platforms. Must not know files."""
