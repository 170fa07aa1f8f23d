"""The references graph of a closure: store paths, how large they are and what they
refer to. Knows neither JSON nor the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Node:
    """A store path: bytes of its own (its NAR's, as Nix counts them), and the store
    paths that it refers to, without itself.
    """

    size: int
    references: frozenset[str]


# Store paths by name. Every reference is a node; cycles are allowed.
Graph = Mapping[str, Node]
