"""Which store paths share a layer. Pure: graphs in, lists of lists out."""
