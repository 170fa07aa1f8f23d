"""Loading into docker, whose daemon is scripted: what is sent, checked and tagged."""

import dataclasses
import functools
import json
import os
from contextlib import suppress
from itertools import product

import pytest

import stream
from stream.engines.opening import opened_engine
from stream.errors import ArgumentError, EngineError
from stream.model import RecordedLayer
from stream.oci.history import recorded_layers
from stream.oci.platform import Platform

from .conftest import Workshop
from .scripted import ScriptedDocker, StoredImage

LOAD = "POST /images/load"


def layers_sent(members: list[str] | None) -> int:
    """Return the number of layers that an archive holds."""
    assert members is not None
    return sum(name.endswith("layer.tar") for name in members)


def the_image(docker: ScriptedDocker) -> str:
    """Return the ID of the only tagged image, which is whole."""
    ((tag, image_id),) = docker.tags.items()
    assert tag == "test:1"
    assert docker.is_whole(image_id)
    return image_id


def test_first_load(docker: ScriptedDocker, workshop: Workshop) -> None:
    """An engine that has nothing gets everything, and only then the name."""
    loaded = workshop.load(docker)
    assert (loaded.engine, loaded.name) == ("docker", "test:1")
    assert docker.images[the_image(docker)].diff_ids == [
        layer.diff_id for layer in loaded.image.layers
    ]
    assert [layers_sent(members) for members in docker.loads] == [3]
    afterwards = docker.requests[docker.requests.index(LOAD) + 1 :]
    image_id = the_image(docker)
    assert afterwards[-1] == f"POST /images/{image_id}/tag"
    assert f"GET /images/{image_id}/json" in afterwards
    assert workshop.observer.warnings == []


def test_image_ids_by_config(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Docker with containerd's store may come to call an image what the classic store calls it."""
    docker.names_by_config = True
    loaded = workshop.load(docker)
    assert the_image(docker) == loaded.image.image_id
    workshop.change("c")
    workshop.load(docker)
    assert [layers_sent(members) for members in docker.loads] == [3, 1]


def test_the_platform_of_the_engine(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Without it an engine on another host could get an image that does not run there."""
    conf = workshop.conf()
    confs = [
        dataclasses.replace(
            conf, architecture=name, variant=variant, container_config={"User": name}
        )
        for name, variant in (("amd64", ""), ("arm64", "v8"), ("arm", "v7"))
    ]
    load = functools.partial(stream.load, engine="docker", host=docker.url)
    loaded = load(confs, workshop.observer)
    assert json.loads(loaded.image.config)["variant"] == "v8"
    assert the_image(docker)
    with pytest.raises(
        EngineError, match="is for linux/arm64, and the images are for linux/amd64, "
    ):
        load([confs[0], confs[2]])
    with pytest.raises(ArgumentError, match="is the platform of several images"):
        load([conf, conf])


def test_unchanged(docker: ScriptedDocker, workshop: Workshop) -> None:
    """An image that is there is not sent again; if it lost its tag, it gets that back."""
    workshop.load(docker)
    image_id = the_image(docker)
    docker.images[image_id].tags = []
    loaded = workshop.load(docker)
    assert loaded.image.size == 0
    assert len(docker.loads) == 1
    assert the_image(docker) == image_id


@pytest.mark.parametrize(
    ("changed", "classic", "containerd"), [("a", 3, 1), ("b", 2, 1), ("c", 1, 1)]
)
def test_one_layer_changed(
    docker: ScriptedDocker, workshop: Workshop, changed: str, classic: int, containerd: int
) -> None:
    """The classic store has layers by their chains, containerd's by their digests."""
    workshop.load(docker)
    workshop.change(changed)
    loaded = workshop.load(docker)
    sent = containerd if docker.containerd else classic
    assert layers_sent(docker.loads[1]) == sent
    assert docker.images[the_image(docker)].diff_ids == [
        layer.diff_id for layer in loaded.image.layers
    ]
    assert workshop.observer.warnings == []


def test_the_same_image_in_part_or_whole(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Its ID does not depend on what an engine had before."""
    workshop.load(docker)
    workshop.change("b")
    workshop.load(docker)
    partly = the_image(docker)
    docker.images.clear()
    docker.stored.clear()
    workshop.load(docker)
    assert the_image(docker) == partly
    assert layers_sent(docker.loads[2]) == 3


def test_removed_meanwhile(docker: ScriptedDocker, workshop: Workshop) -> None:
    """A layer may go between the question and the archive: then all of it follows. Docker with
    containerd's store says that it has loaded the image, although it has not.
    """
    workshop.load(docker)
    first = the_image(docker)
    workshop.change("c")

    def remove() -> None:
        docker.before_load = lambda: None
        docker.remove(first)

    docker.before_load = remove
    workshop.load(docker)
    assert the_image(docker) != first
    assert [layers_sent(members) for members in docker.loads] == [3, 1, 3]
    (warning,) = workshop.observer.warnings
    assert warning.endswith("; sending every layer")


def said(text: str) -> bytes:
    """Return an answer of docker's."""
    return json.dumps({"stream": text}).encode() + b"\n"


@pytest.mark.parametrize(
    "answer",
    [
        b'{"errorDetail": {"message": "no space left"}, "error": "no space left"}\n',
        b"",
        said("Loaded image ID: sha256:" + "0" * 64),
        said("Error unpacking image test: failed to extract layer\n"),
        b"\xff",
    ],
    ids=["error", "nothing", "another image", "unpacking", "no JSON"],
)
def test_whatever_the_answer_leaves_open(
    docker: ScriptedDocker, workshop: Workshop, answer: bytes
) -> None:
    """A partial load that may have failed is followed by a full one."""
    workshop.load(docker)
    workshop.change("c")
    docker.say = lambda number: answer if number == 2 else None
    workshop.load(docker)
    assert [layers_sent(members) for members in docker.loads] == [3, 1, 3]
    assert docker.images[the_image(docker)].diff_ids[2:]


def test_remarks_on_an_image_that_is_there(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Containerd's store may have all blobs, and have failed to unpack them."""
    workshop.load(docker)
    workshop.change("c")
    docker.remark = lambda number: "Error unpacking image" if number == 2 else ""
    workshop.load(docker)
    assert [layers_sent(members) for members in docker.loads] == [3, 1, 3]
    the_image(docker)


def test_remarks_on_a_full_load(docker: ScriptedDocker, workshop: Workshop) -> None:
    """A daemon that always has something to say is taken by what it has."""
    docker.remark = lambda _number: "Something new"
    workshop.load(docker)
    the_image(docker)
    assert len(docker.loads) == 1


def test_refused(docker: ScriptedDocker, workshop: Workshop) -> None:
    """A full load that fails is an error in docker's words, and the tag stays where it was."""
    workshop.load(docker)
    first = the_image(docker)
    workshop.change("c")
    docker.say = lambda _number: b'{"error": "no space left on device"}\n'
    with pytest.raises(stream.EngineError, match=r"no space left on device") as raised:
        workshop.load(docker)
    assert raised.value.engine == f"docker at {docker.url}"
    assert docker.tags == {"test:1": first}
    assert len(docker.loads) == 3


def test_nothing_broken_stays(docker: ScriptedDocker, workshop: Workshop) -> None:
    """An image that stays incomplete is not tagged, and what there is of it is removed."""
    docker.loses = True
    with pytest.raises(stream.EngineError, match="does not have the image after loading it"):
        workshop.load(docker)
    assert docker.tags == {}
    assert not docker.containerd or not docker.images


def test_killed_in_the_middle(docker: ScriptedDocker, workshop: Workshop) -> None:
    """If the image cannot be written to its end, docker gets no end either."""
    workshop.load(docker)
    first = the_image(docker)
    workshop.store.file("c", 4 << 20)
    conf = workshop.conf()
    os.truncate(workshop.store.path("c"), 8 << 20)

    class Truncating(stream.Observer):
        def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
            os.truncate(workshop.store.path("c"), 1)

    with pytest.raises(stream.SourceError):
        stream.load(conf, Truncating(), engine="docker", host=docker.url, digests=workshop.digests)
    assert docker.tags == {"test:1": first}
    assert not any(docker.loads[1:])


def test_docker_that_does_not_want_all(docker: ScriptedDocker, workshop: Workshop) -> None:
    """A daemon that is content too early has not got the image, and somebody has to say so."""
    workshop.store.file("c", 4 << 20)
    docker.garble = lambda path: b'{"stream": ""}' if path == "/images/load" else None
    with pytest.raises(stream.EngineError):
        workshop.load(docker)
    assert not docker.tags


def test_docker_dies_while_it_loads(docker: ScriptedDocker, workshop: Workshop) -> None:
    """A connection that ends without an answer is an error, however it ends."""

    def die() -> None:
        raise ConnectionAbortedError

    docker.before_load = die
    with pytest.raises(stream.EngineError, match="does not answer"):
        workshop.load(docker)
    assert docker.tags == {}


def test_many_images(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Asking takes a bounded time; the image's earlier self is looked at first."""
    for number in range(500):
        docker.images[f"sha256:{number:064}"] = StoredImage(
            manifest="", blobs=[], diff_ids=["x"], tags=[f"other:{number}"]
        )
    workshop.load(docker)
    workshop.change("c")
    docker.requests.clear()
    workshop.load(docker)
    assert layers_sent(docker.loads[1]) == 1
    assert len(docker.requests) < 50


def test_answers_that_make_no_sense(docker: ScriptedDocker, workshop: Workshop) -> None:
    """They are an error of one line, or no reason to leave anything out; never a traceback."""
    workshop.load(docker)
    for path, garbage in product(
        ["/_ping", "/info", "/images/json"], [b"\xff", b"[1]", b'{"a": 1}', b"null", b"[" * 10**5]
    ):
        before = docker.tags
        workshop.change("c")
        docker.garble = lambda asked, path=path, garbage=garbage: (  # type: ignore[misc]
            garbage if asked == path else None
        )
        with suppress(stream.EngineError):
            workshop.load(docker)
            assert docker.tags != before
            continue
        assert docker.tags == before
        the_image(docker)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"message": "too many\\nrequests"}', "too many"),
        (b"a proxy says no\n", "a proxy says no"),
        (b"", "answered 503"),
    ],
)
def test_docker_says_why(
    docker: ScriptedDocker, workshop: Workshop, body: bytes, reason: str
) -> None:
    """What docker refuses is reported in its words, on one line."""
    docker.garble = lambda _path: body
    docker.status = 503
    with pytest.raises(stream.EngineError) as raised:
        workshop.load(docker)
    assert str(raised.value).startswith(f"docker at {docker.url}: {reason}")


def test_without_notes(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Containerd's store does not say which blobs it has, so without notes it gets all of them."""
    workshop.load(docker)
    workshop.change("c")
    notes = workshop.digests.layers
    for at in [at for at in notes if at[1]]:
        notes.pop(at)
    workshop.load(docker)
    assert layers_sent(docker.loads[1]) == (3 if docker.containerd else 1)
    workshop.change("c")
    workshop.load(docker)
    assert layers_sent(docker.loads[2]) == 1


def test_rehearsal(docker: ScriptedDocker, workshop: Workshop) -> None:
    """`--dry-run` reports what the load that follows sends."""
    workshop.load(docker)
    workshop.change("c")
    rehearsed = stream.load(
        workshop.conf(), engine="docker", host=docker.url, digests=workshop.digests, rehearse=True
    )
    assert len(docker.loads) == 1
    loaded = workshop.load(docker)
    assert rehearsed == dataclasses.replace(loaded, rehearsed=True)


def test_older_docker_with_containerd_store(docker: ScriptedDocker, workshop: Workshop) -> None:
    """Before API 1.47, docker does not say whether an image is complete: nothing is left out."""
    docker.version = "1.44"
    workshop.load(docker)
    workshop.change("c")
    workshop.load(docker)
    assert layers_sent(docker.loads[1]) == (3 if docker.containerd else 1)


def test_the_image_that_has_a_tag(docker: ScriptedDocker) -> None:
    """Without it `load` of a specification would lay the image out in another way each time."""
    paths = ["/nix/store/a", "/nix/store/b"]
    layers = [f"sha256:{number:064}" for number in range(3)]
    inspected = {
        "Os": "linux",
        "Architecture": "arm",
        "Variant": "v7",
        "RootFS": {"Layers": layers},
    }
    history = [
        {"Id": "<missing>", "Comment": "customisation layer"},
        {"Id": "<missing>", "Comment": f"store paths: {paths}"},
        {"Id": "<missing>", "CreatedBy": "of the base", "Comment": ""},
    ]
    answers = {
        "/images/example/app:v1/json": inspected,
        "/images/example/app:v1/history": history,
    }
    garble = docker.garble
    docker.garble = lambda path: (
        json.dumps(answers[path]).encode() if path in answers else garble(path)
    )
    with opened_engine("docker", docker.url) as engine:
        platform = Platform(os="linux", architecture="arm", variant="v7")
        found = engine.config("example/app:v1", platform)
        assert found is not None
        assert Platform.parse(found) == platform
        assert recorded_layers(found) == [
            RecordedLayer(diff_id=layers[1], store_paths=tuple(paths))
        ]
        assert engine.config("example/app:v2", platform) is None
