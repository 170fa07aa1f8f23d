"""The previous build: from its image as from its conf."""

import json
import random
from collections.abc import Sequence
from typing import Any

import pytest

from stream.graph import Graph, Node
from stream.layering import split_into_layers
from stream.oci.documents import store_paths_comment
from stream.oci.history import recorded_layers
from stream.planning.previous import PreviousImage

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
BUDGET = 12


def history_of(seed: int, builds: int) -> list[Graph]:
    """Return the closures of successive builds: a change of a path changes all that need it, a few
    paths come, and a few go.
    """
    chance = random.Random(seed)
    versions = dict.fromkeys(range(40), 0)
    graphs: list[Graph] = []
    for _ in range(builds):
        for number in chance.sample(sorted(versions), 3):
            versions[number] += 1
        if chance.random() < 0.5:
            versions[max(versions) + 1] = 0
            del versions[chance.choice(sorted(versions)[:-1])]
        paths: dict[int, str] = {}
        graph: dict[str, Node] = {}
        for number in sorted(versions):
            own = random.Random(number)
            below = [n for n in sorted(paths) if own.random() < 0.15]
            named = f"{number} {versions[number]} {[paths[n] for n in below]}"
            name = "".join(random.Random(named).choices(DIGITS, k=32)) + f"-p{number}-1.{number}"
            paths[number] = f"/nix/store/{name}"
            size = int(random.Random(named).lognormvariate(13, 2))
            graph[paths[number]] = Node(size, frozenset(paths[n] for n in below))
        graphs.append(graph)
    return graphs


def roots(graph: Graph) -> list[str]:
    """Return the paths that no other needs."""
    needed = {path for node in graph.values() for path in node.references}
    return sorted(graph.keys() - needed)


def image_config(layers: Sequence[Sequence[str]], base: Sequence[str] = ()) -> dict[str, Any]:
    """Return the config of an image of these layers above those of a base image, as it is after a
    registry has had it.
    """
    top = "/nix/store/t-app-customisation-layer"  # where dockerTools has made it
    comments = [*base, *map(store_paths_comment, [*layers, [top]])]
    return json.loads(  # type: ignore[no-any-return]
        json.dumps(
            {
                "rootfs": {"diff_ids": [f"sha256:{number:064}" for number in range(len(comments))]},
                "history": [{"created": "x", "comment": comment} for comment in comments],
            }
        )
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("base", [(), ("store paths: ['/nix/store/b-p3-1.3']", "")], ids=len)
def test_layers_stay_though_nobody_keeps_a_file(seed: int, base: Sequence[str]) -> None:
    """Without it the layers would be others from build to build, unless the conf was kept."""
    by_conf: list[list[str]] | None = None
    by_image: list[list[str]] | None = None
    same_afresh = True
    below = [f"sha256:{number:064}" for number in range(len(base))]
    for graph in history_of(seed, 8):
        previous = None
        if by_image is not None:
            layers = recorded_layers(image_config(by_image, base))
            previous = PreviousImage(layers=tuple(layers)).above(below)
        by_conf = split_into_layers(graph, roots(graph), BUDGET, "stable", by_conf)
        by_image = split_into_layers(graph, roots(graph), BUDGET, "stable", previous)
        assert by_image == by_conf
        same_afresh &= by_image == split_into_layers(graph, roots(graph), BUDGET, "stable")
    assert not same_afresh  # or nothing was kept that would not have been anyway
