"""The second half of the library: tools for archives and confs. Knows no argv."""
