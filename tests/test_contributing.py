"""The pages for people: CONTRIBUTING.md's examples work, links lead somewhere, rooms are described."""

import argparse
import hashlib
import json
import re
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rooms import floors

from stream.cli import verbs
from stream.cli.progress import reporter
from stream.config import load_conf
from stream.errors import SourceError
from stream.observer import Observer
from stream.pipeline import write_images
from stream.sources import image

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
# A path in backticks, of a file or directory that is the project's by its first component.
PATH = re.compile(r"`((?:stream|native|tests|bench|docs|\.ci)/[\w./-]*|[\w-]+\.(?:md|toml))`")


def code(file: str) -> str:
    """The Python example in CONTRIBUTING.md that begins with `# FILE`."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    (found,) = re.findall(rf"```python\n# {re.escape(file)}\n(.*?)```", text, re.DOTALL)
    return str(found)


def example(file: str) -> ModuleType:
    """That example as a module."""
    module = ModuleType("example")
    exec(compile(code(file), file, "exec"), module.__dict__)
    return module


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """A conf of two layers."""
    for name in ("one", "two"):
        (tmp_path / "store" / name).mkdir(parents=True)
        (tmp_path / "store" / name / "file").write_text(name, "utf-8")
    document: dict[str, Any] = {
        "repo_tag": "hello:latest",
        "store_dir": f"{tmp_path}/store",
        "store_layers": [[f"{tmp_path}/store/one"], [f"{tmp_path}/store/two"]],
        "config": {"Cmd": ["/hello"]},
    }
    (tmp_path / "conf.json").write_text(json.dumps(document), "utf-8")
    return tmp_path / "conf.json"


def test_the_sink(conf: Path, tmp_path: Path) -> None:
    """Without it the example that a contributor copies could fail to write an image."""
    bundle = example("stream/sinks/layer_bundle.py").LayerBundle
    with (
        open(tmp_path / "bundle.tar", "wb") as file,
        image.opened(load_conf(conf), print) as sources,
        bundle(file.fileno(), mtime=0) as sink,
    ):
        (written,) = write_images([sources], sink, Observer())
    assert written.size == (tmp_path / "bundle.tar").stat().st_size
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        found = {name: tar.extractfile(name).read() for name in tar.getnames()}  # type: ignore[union-attr]
    config = f"{written.image_id.removeprefix('sha256:')}.json"
    assert [*found] == ["0.tar", "1.tar", config]
    hashes = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in found.values()]
    assert hashes[:2] == [layer.diff_id for layer in written.layers]
    assert hashes[2] == written.image_id
    assert json.loads(found[config])["config"] == {"Cmd": ["/hello"]}


def test_the_sink_with_two_images(conf: Path, tmp_path: Path) -> None:
    """A sink copied from one that keeps only the last image would lose the others of a merge."""
    bundle = example("stream/sinks/layer_bundle.py").LayerBundle
    one = load_conf(conf)
    two = replace(one, architecture="s390x")
    with (
        open(tmp_path / "bundle.tar", "wb") as file,
        image.opened(one, print) as first,
        image.opened(two, print) as second,
        bundle(file.fileno(), mtime=0) as sink,
    ):
        ids = [found.image_id for found in write_images([first, second], sink, Observer())]
    with tarfile.open(tmp_path / "bundle.tar") as tar:
        configs = [name for name in tar.getnames() if name.endswith(".json")]
    assert configs == [f"{image_id.removeprefix('sha256:')}.json" for image_id in ids]
    assert len({*ids}) == 2


def test_the_sink_that_fails(conf: Path, tmp_path: Path) -> None:
    """A sink that left a config behind after a failure would be copied with that fault."""
    bundle = example("stream/sinks/layer_bundle.py").LayerBundle
    read = load_conf(conf)
    (tmp_path / "store" / "two" / "file").unlink()
    (tmp_path / "store" / "two").rmdir()
    with (
        open(tmp_path / "bundle.tar", "wb") as file,
        image.opened(read, print) as sources,
        bundle(file.fileno(), mtime=0) as sink,
        pytest.raises(SourceError),
    ):
        write_images([sources], sink, Observer())
    assert b".json" not in (tmp_path / "bundle.tar").read_bytes()


def test_the_verb(
    conf: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Without it the example that a contributor copies could be a file that is not a verb."""
    file = "stream/cli/verbs/layers.py"
    (tmp_path / "verbs").mkdir()
    (tmp_path / "verbs" / "layers.py").write_text(code(file), "utf-8")
    monkeypatch.setattr(verbs, "__path__", [*verbs.__path__, str(tmp_path / "verbs")])
    assert "layers" in verbs.names()
    verb = verbs.import_verb("layers")
    del sys.modules["stream.cli.verbs.layers"], vars(verbs)["layers"]  # for other tests
    assert isinstance(verb, verbs.Verb)
    parser = argparse.ArgumentParser()
    verb.add_arguments(parser)
    verb.run(parser.parse_args([str(conf)]), reporter("none", quiet=True))
    assert capfd.readouterr().out == "2\n"


def test_every_room_is_described() -> None:
    """A room that the design does not describe is one that nobody knows the limits of."""
    design = ROOT / "docs" / "design.md"
    table = re.findall(r"^\| (.*?) \|", design.read_text("utf-8"), re.MULTILINE)
    described = set(re.findall(r"`stream/(\w+)", " ".join(table)))
    assert set().union(*floors(design)) - described == {"_tarhash"}  # that is `native/`


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths(page: Path) -> None:
    """A link that leads nowhere, or a file that has moved, costs a newcomer's patience."""
    text = page.read_text("utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found.read_text("utf-8")), target
    for path in PATH.findall(prose):
        assert any((place / path).exists() for place in (ROOT, page.parent)), path


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE
    )
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }
