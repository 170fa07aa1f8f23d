"""Text of others on a terminal: names, arguments, archives and confs cannot control it."""

import io
import json
import os
import re
import signal
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stream.cli import tables
from stream.cli.main import main
from stream.cli.verbs import explain, inspect
from stream.tools.explain import ExplainedLayer, Explanation
from stream.tools.inspect import InspectedImage, InspectedLayer, Inspection

# Sequences of a terminal in seven and eight bits, ends of lines, directions, markup of rich.
WEAPONS = [
    "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\x7f", "\b", "\r", "\n", "\v", "\f", "\x85", "\u2028",
    "\u2029", "\u202e", "\u2066", "\u200f", "\ufeff", "\x1c", "[red]", "[/]", "[link=x]",
]  # fmt: skip
WORST = "a" + "".join(WEAPONS) + "stream-image: forged"
TEXTS = st.lists(st.sampled_from([*WEAPONS, "a", "é", "-"]), min_size=1).map("".join)

Command = Callable[[str, Path], Sequence[str]]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore the handlers that the command line installs."""
    before = {
        signum: signal.getsignal(signum)
        for signum in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
        if signum < signal.SIGRTMIN
    }
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def _archive(text: str, directory: Path) -> str:
    """Write an image archive that has `text` wherever an archive may have text."""
    config = {
        "architecture": text, "os": text, "created": text,
        "config": {"Env": [f"A={text}"], "Cmd": [text], "Labels": {text: text}, "User": text, text: text},
        "history": [{"created_by": text, "comment": text}],
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + "0" * 64]},
    }  # fmt: skip
    layer = _tar({text[:50]: b"content"})
    manifest = [{"Config": "c.json", "RepoTags": [text], "Layers": ["l.tar"]}]
    path = directory / "image.tar"
    path.write_bytes(
        _tar(
            {
                "l.tar": layer,
                "c.json": json.dumps(config).encode(),
                "manifest.json": json.dumps(manifest).encode(),
            }
        )
    )
    return str(path)


def _tar(files: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _json(document: object, directory: Path) -> str:
    path = directory / "document.json"
    path.write_text(json.dumps(document), "utf-8")
    return str(path)


def _conf(text: str, directory: Path) -> str:
    """Write a conf that has `text` wherever a conf may have text."""
    store = directory / "store"
    (store / "x" / text).mkdir(parents=True, exist_ok=True)
    layers = [[str(store / "x"), f"{store}/{text}"]]
    return _json(
        {
            "repo_tag": text, text: text, "architecture": text, "config": {text: text, "Env": text},
            "store_dir": str(store), "store_layers": layers, "created": text, "uid": text,
        },
        directory,
    )  # fmt: skip


def _sound_conf(text: str, directory: Path) -> str:
    """Write a conf that can be streamed, with `text` where that is allowed."""
    store = directory / "store"
    path = store / f"x{text}".replace("/", "")
    path.mkdir(parents=True, exist_ok=True)
    (path / path.name).touch()
    document = {
        "repo_tag": "x:1", text: text, "architecture": text, "config": {"Env": [text]},
        "store_dir": str(store), "store_layers": [[str(path)]],
    }  # fmt: skip
    return _json(document, directory)


def _above(text: str, directory: Path) -> str:
    """Write a conf whose base image is hostile."""
    return _json({"repo_tag": "x:1", "from_image": _archive(text, directory)}, directory)


def _spec(text: str, directory: Path) -> str:
    document = {"name": text, "tag": text, text: text, "contents": [f"/{text}"], "created": text}
    return _json(document, directory)


COMMANDS: dict[str, Command] = {
    "file": lambda text, at: [f"{at}/{text}"],
    "argument": lambda text, _: [text],
    "option": lambda text, _: [f"--{text}"],
    "progress": lambda text, _: ["x.json", "--progress", text],
    "format": lambda text, _: ["x.json", "--format", text],
    "compress": lambda text, at: [_sound_conf(text, at), "-o", f"{at}/o", "--compress", text],
    "threads": lambda text, _: ["x.json", "--threads", text],
    "tag": lambda text, at: [_sound_conf(text, at), "-t", text],
    "output": lambda text, at: [_sound_conf(text, at), "-o", f"{at}/{text}/x"],
    "output-packed": lambda text, at: [_sound_conf(text, at), "-o", f"{at}/{text}.zip"],
    "conf": lambda text, at: [_conf(text, at)],
    "conf-json": lambda text, at: [_conf(text, at), "--progress", "json"],
    "debug": lambda text, at: [_conf(text, at), "--debug"],
    "sound": lambda text, at: [_sound_conf(text, at), "-o", "/dev/null"],
    "sound-json": lambda text, at: [_sound_conf(text, at), "-o", "/dev/null", "--progress", "json"],
    "base": lambda text, at: [_above(text, at), "-o", "/dev/null"],
    "plan": lambda text, at: ["plan", _spec(text, at)],
    "plan-file": lambda text, at: ["plan", f"{at}/{text}"],
    "plan-output": lambda text, at: ["plan", "x", "-o", f"{at}/{text}/x"],
    "explain": lambda text, at: ["explain", _sound_conf(text, at)],
    "explain-json": lambda text, at: ["explain", "--json", _sound_conf(text, at)],
    "explain-tree": lambda text, at: ["explain", "--tree", _sound_conf(text, at)],
    "explain-why": lambda text, at: ["explain", "--why", text, _sound_conf(text, at)],
    "explain-faults": lambda text, at: ["explain", _conf(text, at)],
    "explain-against": lambda text, at: ["explain", _sound_conf(text, at), "--against", f"{at}/{text}"],
    "inspect": lambda text, at: ["inspect", _archive(text, at)],
    "inspect-json": lambda text, at: ["inspect", "--json", _archive(text, at)],
    "inspect-conf": lambda text, at: ["inspect", _sound_conf(text, at)],
    "inspect-files": lambda text, at: ["inspect", "--duplicates", _archive(text, at)],
    "inspect-image": lambda text, at: ["inspect", _archive(text, at) + f":{text}:{text}"],
    "diff": lambda text, at: ["diff", _archive(text, at), _sound_conf(text, at)],
    "diff-json": lambda text, at: ["diff", "--json", _archive(text, at), _sound_conf(text, at)],
    "verify": lambda text, at: ["verify", _archive(text, at)],
    "verify-json": lambda text, at: ["verify", "--json", _archive(text, at)],
    "verify-conf": lambda text, at: ["verify", _archive(text, at), "--conf", _sound_conf(text, at)],
    "merge": lambda text, at: ["merge", _archive(text, at), "-o", "/dev/null"],
    "merge-file": lambda text, at: ["merge", f"{at}/{text}", "-o", "/dev/null"],
    "export": lambda text, at: ["export", _archive(text, at), "-o", "/dev/null"],
    "export-conf": lambda text, at: ["export", _sound_conf(text, at), "-o", "/dev/null"],
    "digests": lambda text, at: ["digests", _sound_conf(text, at)],
    "tarsum": lambda text, _: ["tarsum", text],
    "wrap": lambda text, at: ["wrap", _sound_conf(text, at), "-o", f"{at}/{text}/x"],
    "wrap-tag": lambda text, at: ["wrap", _sound_conf(text, at), "-o", f"{at}/w", "-t", text],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@settings(max_examples=4)
@given(text=TEXTS)
@example(text=WORST)
def test_of_every_verb(
    command: str,
    tmp_path_factory: pytest.TempPathFactory,
    capfdbinary: pytest.CaptureFixture[bytes],
    text: str,
) -> None:
    """Without it a name in an archive could clear the screen, hide a line or forge one."""
    directory = tmp_path_factory.mktemp("hostile")
    try:
        main(COMMANDS[command](text, directory))
    except SystemExit as left:
        assert left.code == 2  # noqa: PT017 — argparse's way to end
    out, err = capfdbinary.readouterr()
    assert b"internal error" not in err
    for stream in out, err:
        lines = stream.decode().split("\n")
        assert [line for line in lines if not line.isprintable()] == []
        assert [line for line in lines if line.startswith("stream-image: forged")] == []


def _layer(text: str) -> InspectedLayer:
    return InspectedLayer(
        name=text, size=1, stored_size=1, compression=text, diff_id=None, digest=None, entries=1,
        store_paths=(), history=text,
    )  # fmt: skip


def _explained(text: str) -> str:
    layer = ExplainedLayer(kind="base", name=text, size=1, paths=())
    return explain._text(Explanation(repo_tag=text, layers=(layer,), against=text))


def _inspected(text: str) -> str:
    image = InspectedImage(
        image_id=None, repo_tags=(text,), layers=(_layer(text),),
        document={"os": text, "config": {text: text, "Labels": {text: text}}},
    )  # fmt: skip
    inspection = Inspection(name=text, kind=text, also_oci=False, compression=text, images=(image,))
    return tables.render(inspect._parts(inspection))


@pytest.mark.parametrize("table", [_inspected, _explained])
@given(text=TEXTS)
@example(text=WORST)
def test_of_tables_with_colours(
    table: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Without it an image's label could be a sequence of the terminal among the table's own."""
    monkeypatch.setattr(tables, "is_terminal", lambda _: True)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((100, 50)))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = table(text)
    assert "\x1b[" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert [line for line in plain.split("\n") if not line.isprintable()] == []
