"""Progress and messages on standard error while an image is written."""

import json
import os
import pty
import re
import subprocess
import tarfile
import time
from pathlib import Path

import commandline
import pytest
from support import COMMAND, MIB, Store

SUMMARY = r"test:1 sha256:[0-9a-f]{64}: 3 layers, \d.* in \d+\.\d s \(.*/s\)"


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf of three layers, the last with two store paths."""
    store = Store.below(tmp_path)
    for name in ["a", "b", "c", "d"]:
        store.file(name, 3 * MIB)
    return store.conf(["a"], ["b"], ["c", "d"])


def _said(*args: str | Path) -> list[str]:
    done = commandline.run(
        [*COMMAND, *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        check=True, timeout=30,
    )  # fmt: skip
    return done.stderr.decode().splitlines()


@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_plain(conf: Path, mode: str) -> None:
    """Without it a log could show nothing of a long run, or thousands of lines of a bar."""
    *layers, summary = _said(conf, "--progress", mode)
    assert len(layers) == 3
    for number, line in enumerate(layers, 1):
        assert re.fullmatch(rf"layer {number}/3 sha256:[0-9a-f]{{12}} .* MB  /.*", line)
    assert "and 1 more" in layers[2]
    assert re.fullmatch(SUMMARY, summary)


def test_none(conf: Path) -> None:
    """Without it `none` could print more than the summary."""
    (summary,) = _said(conf, "--progress", "none")
    assert re.fullmatch(SUMMARY, summary)


@pytest.mark.parametrize("mode", ["auto", "bar", "plain", "none"])
def test_quiet(conf: Path, mode: str) -> None:
    """Without it cron could send a mail for each image."""
    assert _said(conf, "-q", "--progress", mode) == []


def test_quiet_still_warns(tmp_path: Path) -> None:
    """Without it -q could hide errors."""
    store = Store.below(tmp_path)
    (line,) = _said(store.conf(no_such_key=1), "-q")
    assert line.startswith("stream-image: warning: ")


def test_json(conf: Path) -> None:
    """Without it programs that monitor a run could no longer parse its events."""
    events = [json.loads(line) for line in _said(conf, "--progress", "json")]
    assert [event["event"] for event in events[:2]] == ["start", "layer-start"]
    assert events[0].keys() == {"event", "seconds", "layers"}
    assert events[0]["layers"] == 3
    starts = [event for event in events if event["event"] == "layer-start"]
    layers = [event for event in events if event["event"] == "layer"]
    for number, (start, layer) in enumerate(zip(starts, layers, strict=True), 1):
        assert start.keys() == {"event", "seconds", "layer", "archive_name", "size", "position"}
        assert layer.keys() == start.keys() | {"diff_id"}
        assert start["layer"] == layer["layer"] == number
        assert start["size"] == layer["size"]
        assert start["position"] + start["size"] <= layer["position"]
    done = events[-1]
    assert done.keys() == {"event", "seconds", "repo_tags", "image_id", "layers", "size"}
    assert done["event"] == "done"
    assert [event["seconds"] for event in events] == sorted(event["seconds"] for event in events)


def test_manifest_of_an_oci_archive(conf: Path, tmp_path: Path) -> None:
    """Without it the digest for pulling the image would have to be extracted from the archive."""
    out = tmp_path / "out.tar"
    arguments = ("--format", "oci-archive", "-o", out)
    done = json.loads(_said(conf, *arguments, "--progress", "json")[-1])
    with tarfile.open(out) as tar:
        (entry,) = json.loads(tar.extractfile("index.json").read())["manifests"]  # type: ignore[union-attr]
    assert done["manifest"] == entry["digest"]
    assert (
        f": 3 layers, manifest {entry['digest']}, "
        in _said(conf, *arguments, "--progress", "none")[-1]
    )


@pytest.mark.parametrize("kind", ["ConfError", "SourceError"])
def test_json_error(tmp_path: Path, kind: str) -> None:
    """Without it a program would have to infer the error from the exit status."""
    store = Store.below(tmp_path)
    os.mkfifo(store.path("fifo"))
    conf = store.conf(["fifo"]) if kind == "SourceError" else tmp_path / "none.json"
    done = commandline.run(
        [*COMMAND, conf, "--progress", "json"], capture_output=True, check=False, timeout=30
    )
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert (events[-1]["event"], events[-1]["kind"]) == ("error", kind)
    assert events[-1]["message"]


def test_no_bar_in_a_log(conf: Path) -> None:
    """Without it `--progress bar` in a log could write escape sequences, or an empty line."""
    lines = _said(conf, "--progress", "bar")
    assert "\x1b" not in "".join(lines)
    assert re.fullmatch(SUMMARY, lines[-1])
    assert "" not in lines


def _on_terminal(
    *args: str | Path, term: str = "xterm", slow: bool = True, columns: int = 100
) -> tuple[int, str]:
    """Run with a terminal as standard error. Return the status and the output to the terminal."""
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=terminal,
        env={**os.environ, "TERM": term, "COLUMNS": str(columns)},
    )  # fmt: skip
    os.close(terminal)
    shown = b""
    assert process.stdout
    if slow:  # long enough for some refreshes
        process.stdout.read(MIB)
        time.sleep(0.4)
    process.stdout.read()
    while True:
        try:
            data = os.read(master, 1 << 16)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(master)
    process.stdout.close()
    return process.wait(30), shown.decode()


@pytest.mark.parametrize(("mode", "columns"), [("auto", 100), ("bar", 40)])
def test_bar_on_a_terminal(conf: Path, mode: str, columns: int) -> None:
    """Without it the position in a long run could stay unknown, or the bar remain on the screen."""
    status, shown = _on_terminal(conf, "--progress", mode, columns=columns)
    assert status == 0
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0  # the cursor is visible again
    assert "Traceback" not in shown
    *drawn, last = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.strip()))
    assert re.fullmatch(SUMMARY, last)
    sizes = re.compile(r"layer \d/3 .*\d .?B of \d+(\.\d+)? .?B")  # bytes written and total
    assert any(map(sizes.match, drawn))
    for line in drawn:  # each on one line, which the next one replaces
        assert line.startswith("layer ") or not re.search(r"\d", line)
        assert len(line) <= columns


def test_bar_ends_before_an_error(tmp_path: Path) -> None:
    """Without it the cursor could stay hidden, or the error appear in the middle of the bar."""
    store = Store.below(tmp_path)
    store.file("one", 4 * MIB)
    os.mkfifo(store.path("fifo"))
    status, shown = _on_terminal(store.conf(["one"], ["fifo"]))
    assert status == 1
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0
    assert shown.rstrip().endswith("is a FIFO")
    assert "Traceback" not in shown


def test_no_bar_on_a_terminal_if_not_asked(conf: Path) -> None:
    """Without it `plain` and `-q` could behave differently on a terminal."""
    for options in [["--progress", "plain"], ["-q"]]:
        status, shown = _on_terminal(conf, *options, slow=False)
        assert status == 0
        assert "\x1b" not in shown
