"""The maximum number of layers of each consumer: an image with that many runs, one more does not."""

import json
from pathlib import Path

import pytest
from handmade import Base, layer_tar

from .consumer import LoadError, Runner
from .images import MOTTO, REPO_TAG, WORKING_DIR, BuiltImage, producer
from .table import LIMITS, Limit

pytestmark = [pytest.mark.consumers, pytest.mark.slow]

DEPTH = "max depth exceeded"


@pytest.fixture
def runner(request: pytest.FixtureRequest, limit: Limit) -> Runner:
    """Return the consumer of the limit."""
    chosen = request.getfixturevalue(limit.consumer)
    assert isinstance(chosen, Runner)
    return chosen


def with_layers(image: BuiltImage, directory: Path, count: int) -> tuple[Path, str]:
    """Write the conf of the image on a base with enough layers for this total, each of which adds a name to a
    directory; return the program's output when it has counted them.
    """
    conf = json.loads(image.conf.read_bytes())
    below = count - len(conf["store_layers"]) - 1
    base = Base(
        layers=[layer_tar({f"names/{number}": b""}) for number in range(below)],
        architecture=conf["architecture"],
        config={"Env": ["TREE=/names"]},
    )
    (directory / "base.tar").write_bytes(base.docker_archive())
    conf["from_image"] = str(directory / "base.tar")
    conf["config"]["Env"] = [name for name in conf["config"]["Env"] if not name.startswith("TREE=")]
    path = directory / "conf.json"
    path.write_text(json.dumps(conf))
    return path, f"hello in {WORKING_DIR}: {MOTTO} ({below})\n"


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.consumer)
def test_as_many_as_it_takes(
    limit: Limit, runner: Runner, image: BuiltImage, tmp_path: Path
) -> None:
    """Without it users could flatten images that would have run, or a warning speak of a limit that has changed.

    The store is cold only for the image that runs: both have the same layers, but for the one too many.
    """
    conf, said = with_layers(image, tmp_path, limit.layers)
    loaded = runner.load(producer(conf))
    ran = runner.run(REPO_TAG)

    assert loaded.producer is not None
    assert f": {limit.layers} layers" in loaded.producer.stderr
    assert (ran.returncode, ran.stdout) == (0, said), ran.stderr
    if not limit.beyond:
        return

    conf, _ = with_layers(image, tmp_path, limit.layers + 1)
    if limit.beyond == "refused":
        with pytest.raises(LoadError, match=DEPTH):
            runner.load(producer(conf))
        assert runner.images() == loaded.images
        return
    runner.load(producer(conf))
    ran = runner.run(REPO_TAG)

    assert runner.image_id(REPO_TAG) not in {None, *loaded.images.values()}
    assert ran.returncode != 0
    assert DEPTH in ran.stderr
