"""Consumers pull from `stream-image serve`: all of an image, and then only what is new."""

import json
import sys
from pathlib import Path

import pytest

from .consumer import Consumer, Runner
from .images import REPO_TAG, BuiltImage
from .pulling import pull_command

pytestmark = pytest.mark.consumers


def _pull(consumer: Consumer, conf: Path) -> set[str]:
    """Let a consumer pull the image of a conf. Return the digests of the blobs that it fetched."""
    command = pull_command(consumer, "$STREAM_IMAGE_REF")
    ended = consumer.command(
        *(
            sys.executable,
            "-m",
            "stream",
            "serve",
            str(conf),
            "--progress",
            "json",
            "--run",
            command,
        )
    )
    assert ended.returncode == 0, ended.stderr
    fetched = set()
    for line in ended.stderr.splitlines():
        event = json.loads(line) if line.startswith('{"event"') else {}
        if event.get("event") == "answered" and " /v2/greeter/blobs/" in event["request"]:
            assert event["status"] == 200
            fetched.add(event["request"].rpartition("/")[2])
    return fetched


def test_pull(consumer: Consumer, image: BuiltImage, expected_id: str, tmp_path: Path) -> None:
    """Without it a consumer could refuse the image, fetch everything again for one new layer, or
    run another one.
    """
    document = json.loads(image.conf.read_bytes())
    document["customisation_layer"] = None
    without_top = tmp_path / "without-top.json"
    without_top.write_text(json.dumps(document))

    assert len(_pull(consumer, without_top)) == 4
    again = _pull(consumer, image.conf)

    assert consumer.image_id(REPO_TAG) == expected_id
    if isinstance(consumer, Runner):
        assert len(again) == 2  # the new layer and the config
        ran = consumer.run(REPO_TAG)
        assert (ran.returncode, ran.stdout) == (0, image.greeting("hello")), ran.stderr
