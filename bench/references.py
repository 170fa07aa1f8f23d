"""References graphs shaped like real closures, without a store: a few paths that all others
need, families that need each other (a language's modules, a desktop), and one root.

Knows Nix's JSON; must not know planners.
"""

from __future__ import annotations

import hashlib
import json
import random

from bench.storepaths import base_name

_BASE = 20  # one path in this many belongs to the base
_FAMILY = 40  # paths in a family, on average


def references_json(count: int) -> bytes:
    """Return a closure of `count` paths as `exportReferencesGraph` writes it; always the same."""
    references, rng = _shape(count), random.Random(count)
    names = [
        "/nix/store/"
        + base_name(hashlib.sha256(b"%d" % number).digest(), f"p{number % 997}-1.{number % 7}")
        for number in range(count)
    ]
    closure = [
        {
            "path": names[number],
            "narSize": int(2 ** rng.gauss(17, 3)),
            "references": sorted(names[other] for other in references[number]),
        }
        for number in range(count)
    ]
    return json.dumps(sorted(closure, key=lambda item: str(item["path"]))).encode()


def _shape(count: int) -> list[set[int]]:
    """Return the references of each path, by number; all are lower than the path's own."""
    rng = random.Random(count)
    base = max(3, count // _BASE)
    family = base
    references: list[set[int]] = []
    for number in range(count - 1):
        if number < base:
            low = max(0, number - 12)
            found = {rng.randrange(low, number) for _ in range(rng.randrange(4)) if number}
        else:
            if rng.random() < 1 / _FAMILY:
                family = number
            # Lower numbers are more popular.
            found = {int(base * rng.random() ** 2) for _ in range(rng.randrange(1, 5))}
            if number > family:
                found |= {rng.randrange(family, number) for _ in range(rng.randrange(5))}
            if number > base and rng.random() < 0.2:
                found.add(rng.randrange(base, number))
        references.append(found)
    referred = set().union(*references)
    references.append({number for number in range(count - 1) if number not in referred})
    return references
