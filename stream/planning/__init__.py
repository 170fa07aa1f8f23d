"""From a specification to a conf: closure, layers, tag."""
