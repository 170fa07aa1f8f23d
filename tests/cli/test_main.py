"""The command line: exit statuses, closed streams, terminals, and names of options."""

import os
import re
import signal
import subprocess
import sys
import threading
from itertools import product
from pathlib import Path

import commandline
import pytest
from support import COMMAND, Store, members

import stream
from stream.cli import main as command_line
from stream.cli import verbs


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one path."""
    store = Store.below(tmp_path)
    store.file("one/file", b"content")
    return store


def _run(
    *args: str | Path, stdin: bytes = b"", command: tuple[str, ...] = COMMAND
) -> subprocess.CompletedProcess[bytes]:
    return commandline.run(
        [*command, *map(str, args)], input=stdin, capture_output=True, check=False, timeout=30
    )


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["--no-such-option"],
        ["a.json", "b.json"],
        ["a.json", "--progress", "loud"],
        ["a.json", "-o"],
        ["a.json", "-t"],
    ],
)
def test_usage_errors(args: list[str]) -> None:
    """Without it a script could not tell a mistyped command from a failed one."""
    done = _run(*args)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"stream-image: ")
    assert b"Try 'stream-image --help'." in done.stderr


def test_conf_errors(tmp_path: Path) -> None:
    """Without it a bad conf would look like a failed run, or write something first."""
    for conf in [tmp_path / "none.json", tmp_path]:
        done = _run(conf)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.startswith(f"stream-image: {conf}: cannot be read: ".encode())
        assert done.stderr.count(b"\n") == 1


def test_conf_error_with_line_breaks_is_one_line(store: Store) -> None:
    """Without it a path could forge a line of the log, or move a terminal's cursor."""
    done = _run(store.conf(["one\nfake: all is well\x1b[2J"]))
    assert done.returncode == 2
    assert done.stderr.count(b"\n") == 1
    assert b"\x1b" not in done.stderr


def test_help_tells_of_every_command() -> None:
    """Without it the help could omit a verb or an option, which few would then find."""
    text = _run("--help").stdout.decode()
    found = set(re.findall(r"^  ([\w-]+) +\w", text.partition("Verbs")[2], re.MULTILINE))
    assert found == verbs.names()


def test_version_and_help() -> None:
    """Without it a bug report could lack the version, or a user the options."""
    done = _run("--version")
    assert done.returncode == 0
    assert done.stdout.decode() == f"stream-image {stream.__version__}\n"
    text = _run("--help")
    assert text.returncode == 0
    for option in ["--repo-tag", "--output", "--progress", "--quiet", "--debug", "--version"]:
        assert option.encode() in text.stdout


@pytest.mark.parametrize(
    ("verb", "option"),
    [(["help"], ["--help"]), (["help", "plan"], ["plan", "--help"]), (["version"], ["--version"])],
)
def test_help_and_version_are_verbs(
    capfd: pytest.CaptureFixture[str], verb: list[str], option: list[str]
) -> None:
    """Without it those who try 'help' or 'version' first, as other tools have it, would not get it."""
    assert command_line.main(verb) == 0
    answer = capfd.readouterr()
    with pytest.raises(SystemExit) as done:
        command_line.main(option)
    assert done.value.code == 0
    assert answer == capfd.readouterr()
    assert answer.out.strip()


def test_help_for_an_unknown_verb() -> None:
    """Without it the help of another verb could be taken for that of the one asked for."""
    assert "'psuh': no such verb; did you mean 'push'?" in _said("help", "psuh")
    assert "'qqq': no such verb; 'stream-image help' lists them" in _said("help", "qqq")


@pytest.mark.parametrize("spelling", ["-t", "--tag", "--repo-tag", "--repo_tag"])
def test_repo_tag(store: Store, spelling: str) -> None:
    """Without it a conf's tag could not be replaced, by the old spelling of the option or the new one."""
    done = _run(store.conf(["one"]), spelling, "other:2")
    assert done.returncode == 0
    assert b'"RepoTags":["other:2"]' in done.stdout
    assert b"other:2 sha256:" in done.stderr
    assert _run(store.conf(["one"]), spelling, "Not A Tag").returncode == 2


def test_conf_from_standard_input(store: Store) -> None:
    """Without it a conf could only be read from a file."""
    conf = store.conf(["one"])
    assert _run("-", stdin=conf.read_bytes()).stdout == _run(conf).stdout
    bad = _run("-", stdin=b"{")
    assert bad.returncode == 2
    assert bad.stderr.startswith(b"stream-image: standard input: ")


@pytest.mark.slow
def test_console_script_is_the_module(store: Store) -> None:
    """Without it the two ways to start the program could differ."""
    script = Path(sys.executable).with_name("stream-image")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    conf = store.conf(["one"])
    cases: list[list[str | Path]] = [[conf], ["--version"], ["--help"], [], ["no.json"]]
    for args in cases:
        by_script = _run(*args, command=(str(script),))
        by_module = _run(*args)
        assert by_script.returncode == by_module.returncode
        assert by_script.stdout == by_module.stdout


def test_terminal_is_refused(store: Store) -> None:
    """Without it a forgotten pipe could fill the screen with a tar."""
    master, terminal = os.openpty()
    conf = store.conf(["one"])
    cases: list[list[str | Path]] = [[conf], [conf, "-o", "-"], [conf, "-o", "/dev/stdout"]]
    for args in cases:
        done = commandline.run(
            [*COMMAND, *args], stdout=terminal, stderr=subprocess.PIPE, check=False, timeout=30
        )
        assert done.returncode == 2, args
        assert b"terminal" in done.stderr
        assert b"docker load" in done.stderr
    os.set_blocking(master, False)
    with pytest.raises(BlockingIOError):
        os.read(master, 1)
    os.close(master)
    os.close(terminal)


def _shell(script: str, *args: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Return a script in which "$@" is the command."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *COMMAND, *map(str, args)],
        capture_output=True, check=False, timeout=30,
    )  # fmt: skip


def test_standard_output_closed(store: Store) -> None:
    """Without it the image could go to the first file opened, or an unwritten image count as written."""
    done = _shell('"$@" >&-', store.conf(["one"]))
    assert done.returncode == 1
    assert done.stderr == b"stream-image: standard output is closed\n"


# Each way once; the other combinations can wait for CI.
CLOSED = [("auto", "<&-"), ("json", "2>&-"), ("bar", "2>/dev/full")]


@pytest.mark.parametrize(
    ("mode", "closed"),
    [
        *CLOSED,
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in product(("auto", "plain", "json", "none", "bar"), ("2>&-", "2>/dev/full"))
            if pair not in CLOSED
        ),
    ],
)
def test_standard_error_that_takes_nothing(store: Store, mode: str, closed: str) -> None:
    """Without it an image could fail because its messages cannot be printed."""
    conf = store.conf(["one"])
    done = _shell(f'"$@" {closed}', conf, "--progress", mode)
    assert done.returncode == 0, done.stderr
    assert done.stdout == _run(conf).stdout


def test_all_standard_streams_closed(store: Store, tmp_path: Path) -> None:
    """Without it a message could be written into an image whose file took the place of a closed stream."""
    conf = store.conf(["one"])
    target = tmp_path / "image.tar"
    done = _shell('"$@" <&- >&- 2>&-', conf, "-o", target)
    assert done.returncode == 0
    assert target.read_bytes() == _run(conf).stdout


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize("args", [["no.json"], ["--no-such-option"], ["inspct"], []])
def test_error_with_standard_error_that_takes_nothing(args: list[str], closed: str) -> None:
    """Without it the exit status of a failure could depend on who reads its message."""
    assert _shell(f'"$@" {closed}', *args).returncode == 2


@pytest.mark.parametrize(
    "args",
    [["--help"], ["plan", "--help"], ["--version"], ["inspect", "CONF"], ["explain", "CONF"]],
)
def test_answer_that_cannot_be_written(store: Store, args: list[str]) -> None:
    """Without it a full disk could end in an internal error, or pass for success."""
    conf = str(store.conf(["one"]))
    done = _shell('"$@" >/dev/full', *[conf if arg == "CONF" else arg for arg in args])
    assert done.returncode == 1
    wanted = b"stream-image: standard output cannot be written: No space left on device\n"
    assert done.stderr == wanted


def test_only_debug_shows_a_traceback(store: Store) -> None:
    """Without it users could see a traceback, or developers not get one."""
    os.mkfifo(store.path("one/fifo"))
    conf = store.conf(["one"])
    assert b"Traceback" not in _run(conf).stderr
    shown = _run(conf, "--debug").stderr
    assert b"Traceback" in shown
    assert b"is a FIFO" in shown


def test_interrupt_while_starting(store: Store) -> None:
    """Without it Ctrl-C in the first tenth of a second could show a traceback."""
    conf = store.conf(["one"])
    for delay in [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]:
        with subprocess.Popen(
            [*COMMAND, conf], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            try:
                process.wait(delay)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=30)
        # Until our first lines run, the start belongs to Python.
        package = os.path.dirname(stream.__file__)
        shown = set(re.findall(rf'File "{re.escape(package)}/([^"]*)"', said.decode()))
        assert shown <= {"__init__.py", "__main__.py"}


def test_interrupt_before_the_first_import() -> None:
    """Without it Ctrl-C could show a traceback from the imports that precede the handler."""
    package = str(Path(stream.__file__).parents[1])
    code = f"import sys; sys.path.append({package!r}); import stream.__main__; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    loaded = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()
    assert not {"signal", "enum", "re", "contextlib"} & set(loaded)


@pytest.mark.parametrize("verb", ["stream", "compress", "export", "export-conf"])
def test_no_thread_left(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    verb: str,
) -> None:
    """Without it a container's limit of processes could look like a bug of this program."""
    conf, image = str(store.conf(["one"])), str(tmp_path / "image.tar")
    assert _run(conf, "-o", image).returncode == 0
    args = {
        "stream": [conf], "compress": [conf, "--compress", "zstd"], "export": ["export", image],
        "export-conf": ["export", conf],
    }[verb]  # fmt: skip

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert command_line.main([*args, "-o", "/dev/null", "-q"]) == 1
    assert capfd.readouterr().err.startswith("stream-image: cannot start a thread: ")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory"),
        (OSError(24, "Too many open files"), "a call to the system failed: Too many open files"),
        (OSError(5, "Input/output error", "/a\nb"), "/a\\nb: Input/output error"),
        (ImportError("x.so: Too many open files"), "cannot import a part of the program: x.so: "),
    ],
)
def test_failure_of_the_system_anywhere(error: Exception, said: str) -> None:
    """Without it a failure of the system that no module expects would look like a bug."""
    assert command_line._message(error).startswith(said)


def test_archive_on_standard_output_alone(store: Store) -> None:
    """Without it a warning could end up in the image."""
    conf = store.conf(["one"], no_such_key=1)
    done = _run(conf)
    assert members(done.stdout)[-1] == "manifest.json"
    assert b"no_such_key" in done.stderr


def _said(*arguments: str) -> str:
    """Return the message for a command line that is rejected."""
    done = commandline.run([*COMMAND, *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stdout == b""
    assert done.stderr.count(b"\n") == 1
    return done.stderr.decode()


def test_verb_with_a_slip() -> None:
    """A mistyped verb is reported as such, not as a missing file."""
    said = _said("inpsect", "x.tar")
    assert said.endswith("did you mean 'stream-image inspect'? Try 'stream-image --help'.\n")
    assert "unrecognized" in _said("conf.json", "x.tar")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["c.json", "--comprss", "zstd"], "--compress"),
        (["c.json", "--ouptut=image.tar"], "--output"),
        (["c.json", "-compress", "zstd"], "--compress"),
        (["c.json", "help"], "--help"),
        (["c.json", "other.json", "--thraeds", "2"], "--threads"),
        (["push", "c.json", "h/app", "--dryrun"], "--dry-run"),
        (["push", "c.json", "h/app", "--output", "x"], None),
        (["c.json", "-x"], None),
        (["c.json", "outputs"], None),
    ],
)
def test_option_with_a_slip(words: list[str], meant: str | None) -> None:
    """Without it a mistyped option would have to be looked up in a page of help."""
    said = _said(*words)
    assert "unrecognized arguments: " in said
    assert (f"; did you mean '{meant}'? Try" in said) is (meant is not None)
    assert ("did you mean" in said) is (meant is not None)


def test_verb_after_the_conf() -> None:
    """Whoever runs a wrapped image as `./app push NAME` learns which command to run."""
    said = _said("./app", "push", "h/app:v1", "--dry-run")
    assert "the verb comes first: write 'stream-image push ./app …'" in said


@pytest.mark.parametrize("verb", ["inspect", "tarsum", "verify"])
def test_no_promise_of_progress(verb: str) -> None:
    """An option without effect is rejected: nobody should wait for a progress bar that never appears."""
    assert "--progress" in _said(verb, "--progress", "bar", *(["x"] if verb != "tarsum" else []))
