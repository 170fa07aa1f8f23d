"""Podman and ctr as programs, here and by ssh: what they are asked to do, and their complaints."""

import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import members

import stream
from stream.engines.programs import Program
from stream.engines.ssh import SshHost

from .conftest import Workshop

Install = Callable[[str, str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that makes a program, a shell script, the only one of its name."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("STATE", str(tmp_path))
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def make(name: str, script: str) -> Path:
        program = directory / name
        program.write_text(f'#!/bin/sh\necho "${{0##*/}}" "$*" >> "$LOG"\n{script}')
        program.chmod(0o755)
        return tmp_path / "log"

    return make


# Takes the image whose diff_ids are in $STATE/layers.
PODMAN = """
case "$*" in
images*) echo '[{"Id": "one", "Names": ["localhost/test:1"]}, {"Id": "two"}]' ;;
"image inspect"*test:1) exit 125 ;;
"image inspect"*one*) cat "$STATE/held"; echo "Error: two: no such image" >&2; exit 125 ;;
"image inspect"*) test -e "$STATE/loaded" || exit 125; echo "[$(cat "$STATE/layers"), null]" ;;
load*) cat > "$STATE/archive"; test ! -e "$STATE/refuse" || { rm "$STATE/refuse"; echo 'Error: payload
 * oci-archive: no space' >&2; exit 125; }; touch "$STATE/loaded" ;;
tag*) ;;
*) exit 1 ;;
esac
"""


def layers_of(workshop: Workshop, tmp_path: Path) -> list[str]:
    """Write the diff_ids of the workshop's image where the scripts look. Return them."""
    with open(os.devnull, "wb") as nowhere:
        image = stream.write_image(workshop.conf(), nowhere)
    diff_ids = [str(layer.diff_id) for layer in image.layers]
    (tmp_path / "layers").write_text(json.dumps(diff_ids) + "\n")
    return diff_ids


def load(workshop: Workshop, **more: object) -> stream.Loaded:
    """Load the image of the workshop."""
    return stream.load(workshop.conf(), workshop.observer, digests=workshop.digests, **more)  # type: ignore[arg-type]


def test_podman_load_fails_once(workshop: Workshop, install: Install, tmp_path: Path) -> None:
    """What podman refuses in part, it gets as a whole, and only then the tag."""
    log = install("podman", PODMAN)
    diff_ids = layers_of(workshop, tmp_path)
    (tmp_path / "held").write_text(f'["{diff_ids[0]}"]\n')
    loaded = load(workshop, engine="podman")
    assert (loaded.engine, loaded.name) == ("podman", "test:1")
    assert "oci-layout" not in members((tmp_path / "archive").read_bytes())
    (tmp_path / "loaded").unlink()
    (tmp_path / "refuse").touch()
    workshop.change("c")
    layers_of(workshop, tmp_path)
    log.write_text("")
    load(workshop, engine="podman")
    words = [line.split()[1] for line in log.read_text().splitlines()]
    assert words == ["image", "images", "image", "load", "load", "image", "tag"]
    assert workshop.observer.warnings == [
        "podman: Error: payload  * oci-archive: no space; sending every layer"
    ]


def test_podman_gets_a_part_as_an_oci_archive(
    workshop: Workshop, install: Install, tmp_path: Path
) -> None:
    """Podman refuses a docker-archive of which a layer is left out, and is slow with a whole OCI
    archive.
    """
    install("podman", PODMAN)
    diff_ids = layers_of(workshop, tmp_path)
    (tmp_path / "held").write_text(json.dumps(diff_ids) + "\n")
    load(workshop, engine="podman")
    assert "oci-layout" not in members((tmp_path / "archive").read_bytes())
    (tmp_path / "loaded").unlink()
    workshop.change("c")
    layers_of(workshop, tmp_path)
    assert load(workshop, engine="podman").held
    assert "oci-layout" in members((tmp_path / "archive").read_bytes())


def test_program_that_reads_nothing(workshop: Workshop, install: Install) -> None:
    """Its own words are the error, not the pipe that it closed."""
    install(
        "podman",
        "case $1 in image) exit 125;; load) echo Error: no store >&2; exit 125;; esac\necho []",
    )
    workshop.store.file("c", 8 << 20)
    with pytest.raises(stream.EngineError, match=r"^podman: Error: no store$"):
        load(workshop, engine="podman")


def test_program_that_is_missing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names what to install."""
    monkeypatch.setenv("PATH", "/nowhere")
    for engine, program in (("podman", "podman"), ("containerd", "ctr")):
        with pytest.raises(stream.EngineError, match=f"needs {program}, which is not installed"):
            load(workshop, engine=engine)


def test_source_that_fails(
    workshop: Workshop, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program whose input stays incomplete is killed before it can take that for the end. The
    copy that podman makes of an image is not left behind.
    """
    copy = 'cat > "$TMPDIR/podman1"; echo complete >> "$LOG"'
    log = install("podman", f"case $1 in load) {copy};; image) exit 125;; esac")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    class Removing(stream.Observer):
        def layer_started(self, number: int, label: str, archive_name: str, size: int) -> None:
            workshop.store.path("c").unlink(missing_ok=True)

    with pytest.raises(stream.SourceError):
        stream.load(workshop.conf(), Removing(), engine="podman")
    assert not list(temporary.iterdir())
    # It may have been killed before it began.
    assert not log.exists() or "complete" not in log.read_text()


CTR = """
case "$*" in
*"content ls"*) cat "$STATE/held" ;;
*"images check"*) cat "$STATE/table" ;;
*import*) cat > /dev/null; test ! -e "$STATE/refuse" || { echo "ctr: failed" >&2; exit 1; } ;;
*) ;;
esac
"""
HEADING = "REF TYPE DIGEST STATUS SIZE UNPACKED\n"


@pytest.fixture
def containerd_socket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the path of a socket that something listens at, as containerd does at its usual one."""
    with tempfile.TemporaryDirectory(prefix="c") as directory, socket.socket(socket.AF_UNIX) as one:
        path = f"{directory}/c.sock"
        one.bind(path)
        one.listen()
        monkeypatch.setenv("CONTAINERD_ADDRESS", path)
        yield path


def test_containerd_that_is_not_running(
    workshop: Workshop, install: Install, tmp_path: Path
) -> None:
    """Ctr would try for ten seconds, and then say it in its own words."""
    log = install("ctr", CTR)
    said = f"containerd at {tmp_path}/c.sock: does not answer: No such file or directory; is it"
    with pytest.raises(stream.EngineError, match=f"^{said} running"):
        load(workshop, engine="containerd", host=f"unix://{tmp_path}/c.sock")
    assert not log.exists()


def test_containerd_names(
    workshop: Workshop, install: Install, containerd_socket: str, tmp_path: Path
) -> None:
    """An import that fails leaves a name on a broken image: it is one of ours, and is removed."""
    log = install("ctr", CTR)
    (tmp_path / "held").touch()
    (tmp_path / "table").write_text(HEADING)
    (tmp_path / "refuse").touch()
    with pytest.raises(stream.EngineError, match=r"^ctr: ctr: failed$"):
        load(workshop, engine="containerd", namespace="k8s.io", host=f"unix://{containerd_socket}")
    lines = log.read_text().splitlines()
    options = f"ctr --address={containerd_socket} --namespace=k8s.io images"
    ours = lines[-1].removeprefix(f"{options} rm ")
    assert ours.startswith("stream-image.invalid/")
    assert "@sha256:" in ours
    name = ours.partition("@")[0]
    assert lines[-2] == f"{options} import --digests --base-name={name} -"


def test_containerd_elsewhere(workshop: Workshop, install: Install, tmp_path: Path) -> None:
    """The image gets its whole name; names of other runs, which may go at any time, are not used."""
    log = install("ctr", CTR)
    install("ssh", 'while [ "$1" != -- ]; do shift; done; shift 2; exec sh -c "$1"\n')
    diff_ids = layers_of(workshop, tmp_path)
    (tmp_path / "held").write_text(f"{diff_ids[0]}\nsha256:0\n")
    rows = [
        f"{name} application/x sha256:1 complete (4/4) 2 MiB/2 MiB true\n"
        for name in ("stream-image.invalid/another@sha256:1", "example.org/x:1")
    ]
    (tmp_path / "table").write_text(HEADING + "".join(rows))
    load(workshop, engine="containerd", host="ssh://h/run/c.sock", namespace="n")
    loaded = load(workshop, engine="containerd", host="ssh://h/run/c.sock", namespace="n")
    assert loaded.name == "docker.io/library/test:1"
    assert loaded.total(held=False)[0] == 0  # it was there, under another name
    lines = log.read_text().splitlines()
    tag = "ctr --address=/run/c.sock --namespace=n images tag --force"
    assert lines[-1] == f"{tag} example.org/x:1 docker.io/library/test:1"

    (tmp_path / "table").write_text(HEADING)
    workshop.change("c")
    layers_of(workshop, tmp_path)
    with pytest.raises(stream.EngineError, match="ctr at h: does not have the image"):
        load(workshop, engine="containerd", host="ssh://h/run/c.sock", namespace="n")
    imports = [line for line in log.read_text().splitlines() if line.startswith("ctr")]
    assert sum(" import " in line for line in imports) == 3  # in part, then all of it


@pytest.mark.usefixtures("containerd_socket")
@pytest.mark.parametrize(
    "status", ["incomplete (2/4) 1 MiB/2 MiB true", "complete (4/4) 2 MiB/2 MiB false"]
)
def test_containerd_not_whole(
    workshop: Workshop, install: Install, tmp_path: Path, status: str
) -> None:
    """An image that lacks blobs, or is not unpacked, gets no name."""
    log = install("ctr", CTR)
    (tmp_path / "held").touch()
    row = f"docker.io/library/test:1 application/x sha256:1 {status}\n"
    (tmp_path / "table").write_text(HEADING + row)
    with pytest.raises(stream.EngineError, match="does not have the image"):
        load(workshop, engine="containerd")
    assert " tag " not in log.read_text()


def test_ssh(workshop: Workshop, install: Install, tmp_path: Path) -> None:
    """On another host, the same commands are run by ssh, quoted for its shell."""
    install("podman", PODMAN)
    log = install("ssh", 'while [ "$1" != -- ]; do shift; done; shift 2; exec sh -c "$1"\n')
    diff_ids = layers_of(workshop, tmp_path)
    (tmp_path / "held").write_text(f'["{diff_ids[0]}"]\n')
    loaded = load(workshop, engine="podman", host="ssh://me@Alias:2222")
    assert loaded.name == "test:1"
    first = next(line for line in log.read_text().splitlines() if line.startswith("ssh"))
    assert first.startswith("ssh -o ConnectTimeout=30 -T -l me -p 2222 -- Alias podman ")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ssh://h", SshHost(host="h")),
        ("ssh://me@H:22/run/x.sock", SshHost(host="H", user="me", port=22, path="/run/x.sock")),
        ("ssh://[::1]:22/", SshHost(host="::1", port=22)),
    ],
)
def test_ssh_urls(url: str, host: SshHost) -> None:
    """The same as docker's."""
    assert SshHost.parse(url) == host


@pytest.mark.parametrize(
    "url", ["ssh://", "ssh://me:secret@h", "ssh://h:x", "ssh://h?x", "ssh://["]
)
def test_bad_ssh_urls(url: str) -> None:
    """Nothing is run for a URL with a mistake or a password in it."""
    with pytest.raises(stream.ArgumentError) as raised:
        SshHost.parse(url)
    assert "secret" not in f"{raised.value} {raised.value.value}"


def test_podman_if_docker_is_not_there(
    workshop: Workshop, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an engine named, what is there is taken; the error for none names both."""
    monkeypatch.setattr("stream.engines.docker_host.DEFAULT_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setattr("stream.engines.programs.shutil.which", lambda _name: None)
    with pytest.raises(stream.EngineError) as raised:
        load(workshop)
    assert str(raised.value).startswith(
        f"docker at unix://{tmp_path}/none: does not answer: No such"
    )
    assert "podman is not installed" in str(raised.value)
    monkeypatch.undo()
    install("podman", PODMAN)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr("stream.engines.docker_host.DEFAULT_HOST", f"unix://{tmp_path}/none")
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("STATE", str(tmp_path))
    diff_ids = layers_of(workshop, tmp_path)
    (tmp_path / "held").write_text(f'["{diff_ids[0]}"]\n')
    assert load(workshop).engine == "podman"


def test_docker_that_was_chosen_is_not_replaced(
    workshop: Workshop, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who set DOCKER_HOST does not expect the image in this machine's podman."""
    log = install("podman", PODMAN)
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none")
    with pytest.raises(stream.EngineError, match="does not answer"):
        load(workshop)
    assert not log.exists()


def test_arguments(workshop: Workshop) -> None:
    """They are checked before anything is asked."""
    for more in ({"engine": "rkt"}, {"namespace": "x"}, {"engine": "podman", "namespace": "x"}):
        with pytest.raises(stream.ArgumentError):
            load(workshop, **more)


@pytest.mark.parametrize("script", ["exec sleep 60", "cat > /dev/null; exec sleep 60"])
def test_interrupted_while_it_waits(install: Install, tmp_path: Path, script: str) -> None:
    """After a signal to us alone, a program that hangs would go on, or be waited for."""
    install("podman", f'echo $$ > "$STATE/pid"; {script}')
    pid = tmp_path / "pid"
    program = Program(words=("podman",))

    def interrupt() -> None:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.01)
        time.sleep(0.2)  # until it waits: we may still be on our way back from starting it
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    def stop(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def ask(program: Program) -> object:
        return program.feed(lambda fd: os.write(fd, b"x")) if "cat" in script else program.output()

    before = signal.signal(signal.SIGALRM, stop)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            ask(program)
    finally:
        signal.signal(signal.SIGALRM, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
