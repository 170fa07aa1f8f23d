"""`stream-image serve`: the command that it runs, signals, and what it prints."""

import http.client
import json
import os
import signal
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Run as Command
from support import MIB, Run, Store, until

LARGE = 16 * MIB  # more than the sockets of a connection hold


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf."""
    store = Store.below(tmp_path)
    store.file("a", b"a")
    store.file("large", LARGE)
    return store.conf(["a"], ["large"])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a conf whose layer is small."""
    store = Store.below(tmp_path)
    store.file("a", b"a")
    return store.conf(["a"])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["sh", "-c", "exit 7"], 7, ""),
        (["exit 8"], 8, ""),
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["true", "--version", "-q"], 0, ""),
        (["no-such-program", "x"], 127, "no-such-program: cannot be started: No such file"),
        (["/", "x"], 126, "/: cannot be started: Permission denied"),
        ([], 2, "--run: give the command to run after it"),
    ],
)
def test_exit_status(
    small: Path, stream_image: Command, words: list[str], status: int, said: str
) -> None:
    """Without it a script could not tell whether its command succeeded."""
    done = stream_image("serve", str(small), "-q", "--run", *words)
    assert (done.returncode, done.stdout) == (status, b"")
    assert said in done.stderr.decode()
    assert len(done.stderr.splitlines()) == bool(said)


def test_reference(small: Path, stream_image: Command) -> None:
    """Without it a command could not know what to pull."""
    for words in (
        ["echo $STREAM_IMAGE_REF"],
        ["echo", "$STREAM_IMAGE_REF"],
        ["printenv", "STREAM_IMAGE_REF"],
    ):
        done = stream_image("serve", str(small), "-t", "x/y:2", "--run", *words)
        host, _, port = done.stdout.decode().partition(":")
        assert host == "127.0.0.1"
        assert port.partition("/")[2] == "x/y:2\n"
    done = stream_image(
        "serve", str(small), str(small), "--run", 'for r in $STREAM_IMAGE_REF; do echo "$r"; done'
    )
    assert len({*done.stdout.splitlines()}) == 1
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "0.0.0.0:0"], "0.0.0.0:0: can be reached by other machines"),
        (["--listen", "here"], "here: is not ADDRESS:PORT"),
        (["CONF", "-t", "x:1"], "--repo-tag: names one image, and there are several confs"),
        (["-", "-"], "-: standard input can only be read once"),
    ],
)
def test_bad_usage(small: Path, stream_image: Command, words: list[str], said: str) -> None:
    """Without it an image could be served to others, or under another name, by mistake."""
    done = stream_image("serve", str(small), *(word.replace("CONF", str(small)) for word in words))
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith(f"stream-image: {said}")


def _begin(running: Run) -> tuple[str, http.client.HTTPConnection]:
    """Return the path of the large blob, and a connection, once the server answers."""
    read_line = bytearray()
    while not read_line.endswith(b"\n"):
        read_line += os.read(running._pipe, 1)
    address, _, name = read_line.decode().strip().partition("/")
    name, tag = name.rsplit(":", 1)
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request("GET", f"/v2/{name}/manifests/{tag}")
    layer = json.loads(connection.getresponse().read())["layers"][1]
    return f"/v2/{name}/blobs/{layer['digest']}", connection


@pytest.mark.parametrize(
    "signum",
    [
        signal.SIGTERM,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (signal.SIGINT, signal.SIGHUP)),
    ],
)
def test_signals(conf: Path, signum: signal.Signals) -> None:
    """Without it a signal could break off a transfer, or nothing but SIGKILL end the program."""
    with Run("serve", conf, "--progress", "json") as running:
        path, connection = _begin(running)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            running.process.send_signal(signum)
            until(lambda: _is_refused(connection))
            assert len(answer.read()) > LARGE
        ended = running.wait()
        assert ended.status == 128 + signum
        events = [json.loads(line) for line in ended.stderr.splitlines()]
        assert [event["event"] for event in events[:2]] == ["start", "layer-start"]
        assert "serving" in {event["event"] for event in events}
        assert events[-1]["request"] == f"GET {path}"
        assert events[-1]["size"] > LARGE


def _is_refused(connection: http.client.HTTPConnection) -> bool:
    other = http.client.HTTPConnection(connection.host, connection.port, timeout=60)
    try:
        other.connect()
    except ConnectionError:
        return True
    other.close()
    return False


def test_second_signal(conf: Path) -> None:
    """Without it a client that takes nothing could keep the program from ending."""
    with Run("serve", conf, "-q") as running:
        path, connection = _begin(running)
        with closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            running.process.send_signal(signal.SIGINT)
            until(lambda: _is_refused(connection))
            ended, _ = running.stopped_by(signal.SIGTERM)
            assert (ended.status, ended.stderr) == (128 + signal.SIGTERM, "")
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                answer.read()
            answer.close()


def test_signals_reach_the_command(small: Path, tmp_path: Path) -> None:
    """Without it the command would go on without its registry, or end without cleaning up."""
    ready = tmp_path / "ready"
    script = f"trap 'exit 9' TERM; touch {ready}; while :; do sleep 0.02; done"
    with Run("serve", small, "-q", "--run", "sh", "-c", script) as running:
        until(ready.exists)
        ended, _ = running.stopped_by(signal.SIGTERM)
        assert (ended.status, ended.stderr) == (9, "")


def test_lines_of_requests(small: Path, stream_image: Command) -> None:
    """Without it nobody could see what a client has fetched."""
    script = (
        "import os, urllib.request as r;"
        "a, _, p = os.environ['STREAM_IMAGE_REF'].partition('/');"
        "r.urlopen(f'http://{a}/v2/').read()"
    )
    done = stream_image(
        "serve", str(small), "--progress", "plain", "--run", "python3", "-c", script
    )
    *_, line = done.stderr.decode().splitlines()
    assert line.startswith("127.0.0.1:")
    assert " GET /v2/: 200, 2 B in 0." in line
