"""Turn a specification into a conf: closure, layers, tag."""
