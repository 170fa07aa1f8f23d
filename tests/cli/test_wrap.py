"""`stream-image wrap`: executables that stream an image from wherever they are started."""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import commandline
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BALLAST, COMMAND, MIB, Run, Store, assert_unfinished, leftovers, members

import stream
from stream.cli import wrapper
from stream.cli.installation import Installation
from stream.cli.main import main
from stream.schema.reading import EMBEDDED, REFERRED

PACKAGE = Path(stream.__file__).parent
# The directories of the package and of its dependencies.
SITES = list(dict.fromkeys([PACKAGE.parent, Path(orjson.__file__).parent.parent]))
SHELLS = [
    [path, *options]
    for name, *options in (["dash"], ["bash"], ["bash", "--posix"], ["busybox", "sh"], ["ksh"])
    if (path := shutil.which(name))
]
ODD = f"""it's "odd" $HOME `id` \\ * ; späß{EMBEDDED.decode()}#!""" + "long" * 30
MODES: Sequence[Sequence[str]] = [[], ["--embed"]]
NOBODY = 65534


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    """Return a conf of one small layer."""
    store = Store.below(tmp_path)
    store.file("one", b"content")
    return store.conf(["one"])


@pytest.fixture(params=MODES, ids=["named", "embedded"])
def options(request: pytest.FixtureRequest) -> Sequence[str]:
    """Return one of the two kinds of executables."""
    chosen: Sequence[str] = request.param
    return chosen


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Return a directory that all users can read."""
    with tempfile.TemporaryDirectory(prefix="wrap") as name:
        os.chmod(name, 0o755)
        yield Path(name)


def _run(*argv: str | Path, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    return commandline.run(
        [*map(str, argv)], capture_output=True, check=False, timeout=60, **options
    )


def _wrap(
    *args: str | Path, command: Sequence[str] = COMMAND, **options: Any
) -> "subprocess.CompletedProcess[bytes]":
    return _run(*command, "wrap", *args, **options)


def _wrapped(conf: Path, *options: str | Path, directory: Path | None = None) -> Path:
    """Return the executable of `conf`."""
    target = (directory or conf.parent) / "stream-hello"
    done = _wrap(conf, "-o", target, *options)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return target


def _streamed(conf: Path, *options: str) -> bytes:
    """Return the archive that `stream-image` makes from the conf itself."""
    done = _run(*COMMAND, "-q", *options, conf)
    assert (done.returncode, done.stderr) == (0, b"")
    return bytes(done.stdout)


def _assert_streams(
    program: Sequence[str | Path], expected: bytes, *args: str, **options: Any
) -> None:
    done = _run(*program, "-q", *args, **options)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == expected


def _interpreter(directory: Path) -> Path:
    """Return the interpreter of a separate virtual environment with this package."""
    venv.create(directory, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (directory / "lib" / version / "site-packages" / "ours.pth").write_text(
        "".join(f"{site}\n" for site in SITES), "utf-8"
    )
    return directory / "bin" / "python"


# ---- the environment


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """Make modules and programs that fail when they are found in place of the real ones."""
    directory = tmp_path / "traps"
    directory.mkdir()
    for name in ("stream", "json", "orjson", "argparse", "sitecustomize", "usercustomize"):
        (directory / f"{name}.py").write_text("raise SystemExit('trapped')\n")
    for name in ("python", "python3", "sh", "test", "printf", "cat", "stream-image", "env"):
        (directory / name).write_text("#!/bin/sh\nexit 99\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: " ".join(shell[:1] + shell[1:]))
@pytest.mark.parametrize("kind", ["empty", "traps"])
def test_surroundings(
    conf: Path, options: Sequence[str], traps: Path, shell: Sequence[str], kind: str
) -> None:
    """Without it the image could depend on who starts the executable, and where."""
    program = _wrapped(conf, *options)
    expected = _streamed(conf)
    environment: Mapping[str, str] = {}
    if kind != "empty":
        environment = {
            "PATH": str(traps),
            "PYTHONPATH": str(traps),
            "PYTHONHOME": "/nonexistent",
            "PYTHONSTARTUP": f"{traps}/json.py",
            "PYTHONUSERBASE": str(traps),
            "PYTHONINSPECT": "1",
            "PYTHONPLATLIBDIR": "none",
            "ENV": f"{traps}/sh",
            "BASHOPTS": "execfail",
            "CDPATH": "/",
            "IFS": "/",
            "LC_ALL": "C",
            "conf": "/nonexistent",
        }
    for prefix in ([], shell):
        _assert_streams([*prefix, program], expected, cwd=traps, env=environment)


def test_working_directory_is_gone(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it an executable could fail in a working directory that was removed; dash reports that."""
    program = _wrapped(conf, *options)
    gone = tmp_path / "gone"
    gone.mkdir()
    done = _run("sh", "-c", 'rmdir "$PWD"; exec "$@"', "-", program, "-q", cwd=gone)
    assert done.returncode == 0, done.stderr
    assert done.stdout == _streamed(conf)


@given(
    names=st.lists(
        st.binary(min_size=1, max_size=100)
        .map(lambda name: name.replace(b"\0", b"'").replace(b"/", b"\\"))
        .filter(lambda name: name not in (b".", b"..")),
        min_size=2,
        max_size=2,
    ),
    arguments=st.lists(
        st.binary(max_size=20).map(lambda word: word.replace(b"\0", b"")), max_size=3
    ),
)
def test_any_bytes_in_paths(names: Sequence[bytes], arguments: Sequence[bytes]) -> None:
    """Without it a quote or an undecodable byte in a path could be interpreted by the shell, and run."""
    with tempfile.TemporaryDirectory() as directory:
        here = os.fsencode(directory)
        python, package = (b"%s/%d%s" % (here, n, name) for n, name in enumerate(names))
        # Takes the place of an interpreter, and prints its arguments.
        with open(python, "wb") as file:
            file.write(b"#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
        os.chmod(python, 0o755)
        with open(package, "wb"):
            pass
        search_path = (package, here + names[0])
        for path in (None, search_path):
            installation = Installation(python=python, package=package, search_path=path)
            script = os.path.join(here, b"script")
            with open(script, "wb") as file:
                file.write(wrapper.referring(installation, package, "x:1"))
            for shell in SHELLS:
                said = subprocess.run(
                    [*shell, script, *arguments], stdout=subprocess.PIPE, check=True
                ).stdout.split(b"\0")[:-1]
                assert said[0] == b"-I"
                assert said[-len(arguments) - 3 :] == [package, b"--repo-tag", b"x:1", *arguments]
                assert len(said) == len(arguments) + 6


@pytest.mark.slow
def test_odd_paths(tmp_path: Path, options: Sequence[str]) -> None:
    """Without it interpreter, conf and executable could not have spaces, or more than 127 bytes,
    in their paths.
    """
    odd = tmp_path / ODD
    odd.mkdir()
    store = Store.below(odd)
    store.file("one", b"content")
    conf = store.conf(["one"])
    python = _interpreter(odd / "venv")
    strange = Path(os.fsdecode(os.fsencode(odd) + b"/\xff\x81\x88'\n"))
    strange.mkdir()
    shutil.move(conf, strange / "conf.json")
    program = strange / "stream-hello"
    done = _wrap(
        strange / "conf.json", *options, "-o", program, command=(str(python), "-m", "stream")
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert os.fsencode(str(python)).replace(b"'", b"'\\''") in program.read_bytes()
    expected = _streamed(strange / "conf.json")
    for shell in ([], *SHELLS):
        _assert_streams([*shell, program], expected, env={})


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_another_user(open_place: Path, options: Sequence[str]) -> None:
    """Without it an executable made by root could be unusable for other users."""
    store = Store.below(open_place)
    store.file("one", b"content")
    conf = store.conf(["one"])
    program = open_place / "stream-hello"
    path = {"PYTHONPATH": ":".join(map(str, SITES))}
    nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}
    for python in (sys.executable, "/usr/bin/python3"):
        command = (python, "-m", "stream")
        with suppress(OSError):
            if _run(*command, "-q", conf, env=path, **nobody).returncode == 0:
                break
    else:
        pytest.skip("this installation is closed to others")
    done = _wrap(conf, *options, "-o", program, command=command, env=path, cwd="/")
    assert (done.returncode, done.stderr) == (0, b"")
    _assert_streams([program], _streamed(conf), env={}, **nobody)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_installation_is_closed(open_place: Path, conf: Path) -> None:
    """Without it an installation without access permission could be reported as missing."""
    python = _interpreter(open_place / "venv")
    program = open_place / "stream-hello"
    done = _wrap(conf, "-o", program, command=(str(python), "-m", "stream"))
    assert (done.returncode, done.stderr) == (0, b"")
    (open_place / "venv").chmod(0o700)
    done = _run(program, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/")
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.decode() == (
        f"stream-image: {python}: missing or not accessible; wrap the conf again\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("gone", ["python", "package"])
def test_installation_is_gone(
    tmp_path: Path, conf: Path, options: Sequence[str], gone: str
) -> None:
    """Without it "not found" could be reported of the executable, which exists, instead of the interpreter."""
    odd = tmp_path / "it's\x1b[2J gone"
    shutil.copytree(PACKAGE, odd / "lib" / "stream")
    python = _interpreter(odd / "venv")
    program = tmp_path / "stream-hello"
    command = (str(python), "-m", "stream")
    environment = {"PYTHONPATH": f"{odd}/lib"}
    done = _wrap(conf, *options, "-o", program, command=command, env=environment, cwd="/")
    assert (done.returncode, done.stderr) == (0, b"")
    if gone == "python":
        shutil.rmtree(odd / "venv")
    else:
        shutil.rmtree(odd / "lib")
    for shell in ([], *SHELLS):
        done = _run(*shell, program, "-q", env={})
        assert (done.returncode, done.stdout) == (1, b"")
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith(f"stream-image: {tmp_path}/it's\\x1b[2J gone/")
        assert line.endswith(": missing or not accessible; wrap the conf again")


# ---- the installation


@pytest.mark.slow
def test_package_by_environment(tmp_path: Path, conf: Path, options: Sequence[str]) -> None:
    """Without it the executable of a package in PYTHONPATH could run another one."""
    shutil.copytree(PACKAGE, tmp_path / "lib" / "stream")
    face = tmp_path / "lib" / "stream" / "__init__.py"
    face.write_text(face.read_text("utf-8").replace(stream.__version__, "7.7.7"), "utf-8")
    program = tmp_path / "stream-hello"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}/lib"}
    done = _wrap(conf, *options, "-o", program, env=environment, cwd="/")
    assert (done.returncode, done.stderr) == (0, b"")
    assert _run(program, "--version", env={}).stdout == b"stream-image 7.7.7\n"
    _assert_streams([program], _streamed(conf), env={})


@pytest.mark.slow
def test_package_by_a_script(tmp_path: Path, conf: Path, traps: Path) -> None:
    """Without it an installation by nixpkgs, whose script lists each package, could not be wrapped."""
    script = traps / "stream-image"
    (traps / "orjson.py").unlink()
    for name in ("json", "argparse", "stream"):
        (traps / f"{name}.py").unlink()
    script.write_text(
        f"import site, sys\nfor path in {[*map(str, SITES)]!r}: site.addsitedir(path)\n"
        "from stream.__main__ import main\nsys.exit(main())\n",
        "utf-8",
    )
    bare = getattr(sys, "_base_executable", sys.executable)
    program = tmp_path / "stream-hello"
    done = _wrap(conf, "-o", program, command=(bare, str(script)))
    assert (done.returncode, done.stderr) == (0, b"")
    # The script's directory is not a place for modules of ours.
    assert os.fsencode(traps) not in program.read_bytes()
    _assert_streams([program], _streamed(conf), env={})


def test_interpreter_that_cannot_be_named(conf: Path, tmp_path: Path) -> None:
    """Without it an interpreter embedded in another program could give an executable that cannot start."""
    for executable in ("", "/nonexistent/python", "/bin/false"):
        code = f"import sys; sys.executable = {executable!r}; from stream.cli.main import main; sys.exit(main())"
        command = (sys.executable, "-c", code)
        done = _wrap(conf, "-o", tmp_path / "stream-hello", command=command)
        assert done.returncode == 2
        assert b"cannot import stream-image when restarted; install it with pip" in done.stderr
        assert done.stderr.count(b"\n") == 1
        assert "stream-hello" not in leftovers(tmp_path)


# ---- flags


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--repo_tag", "reg.example/other:2"],
        ["-t", "o:2", "--format", "oci-archive", "--compress", "gzip:1", "--threads", "1"],
    ],
)
def test_flags_are_passed_on(conf: Path, options: Sequence[str], flags: Sequence[str]) -> None:
    """Without it users of streamLayeredImage would lose `--repo_tag`."""
    _assert_streams([_wrapped(conf, *options)], _streamed(conf, *flags), *flags)


def test_output_and_progress(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it `-o` could be relative to the conf instead of to the working directory."""
    program = _wrapped(conf, *options)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = _run(program, "-o", "it is.tar.zst", "--progress", "json", cwd=elsewhere)
    assert (done.returncode, done.stdout) == (0, b"")
    assert json.loads(done.stderr.splitlines()[0])["event"]
    assert (elsewhere / "it is.tar.zst").read_bytes() == _streamed(conf, "--compress", "zstd")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "mode", "said"),
    [
        ("inspect", MODES[0], "the verb comes first: write 'stream-image inspect "),
        ("other.json", MODES[1], "unrecognized arguments: other.json"),
        ("--no-such-flag", MODES[0], "unrecognized arguments: --no-such-flag"),
        ("-", MODES[1], "unrecognized arguments: -"),
    ],
)
def test_what_is_no_flag(conf: Path, mode: Sequence[str], word: str, said: str) -> None:
    """Without it an argument could select another conf or a verb in place of the executable's own conf."""
    done = _run(_wrapped(conf, *mode), word)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr.decode()


def test_tag_of_its_own(conf: Path, options: Sequence[str]) -> None:
    """Without it a conf without a tag could not be wrapped, or its tag not be replaced."""
    expected, other = _streamed(conf, "-t", "own:1"), _streamed(conf, "-t", "other:1")
    document = json.loads(conf.read_text("utf-8"))
    del document["repo_tag"]
    conf.write_text(json.dumps(document), "utf-8")
    program = _wrapped(conf, *options, "-t", "own:1")
    _assert_streams([program], expected)
    _assert_streams([program], other, "-t", "other:1")


def test_standard_input_is_left_alone(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it an executable in a loop over lines could consume them."""
    lines = tmp_path / "lines"
    lines.write_bytes(b"one\ntwo\n")
    program = _wrapped(conf, *options)
    with lines.open("rb") as stdin:
        done = _run("sh", "-c", '"$0" -q -o image.tar; cat', program, stdin=stdin, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"one\ntwo\n", b"")


# ---- the conf


@pytest.mark.slow
@pytest.mark.parametrize("source", ["file", "standard input", "FIFO"])
def test_embedded_conf_needs_no_file(conf: Path, tmp_path: Path, source: str) -> None:
    """Without it an embedding executable could still depend on the conf's file."""
    expected = _streamed(conf)
    program = tmp_path / "stream-hello"
    data = conf.read_bytes()
    conf.unlink()
    if source == "standard input":
        done = _wrap("-", "--embed", "-o", program, input=data)
    elif source == "FIFO":
        os.mkfifo(conf)
        writer = threading.Thread(target=conf.write_bytes, args=(data,))
        writer.start()
        done = _wrap(conf, "--embed", "-o", program)
        writer.join()
        conf.unlink()
    else:
        conf.write_bytes(data)
        done = _wrap(conf, "--embed", "-o", program)
        conf.unlink()
    assert (done.returncode, done.stderr) == (0, b"")
    moved = tmp_path / "-t"  # a name that looks like an option
    program.rename(moved)
    _assert_streams([moved], expected, cwd="/", env={})
    _assert_streams(["./-t"], expected, cwd=tmp_path)
    _assert_streams(["sh", "--", "-t"], expected, cwd=tmp_path)
    (tmp_path / "merge").symlink_to("-t")  # and one that is a verb
    _assert_streams(["sh", "merge"], expected, cwd=tmp_path)
    _assert_streams(["merge"], expected, env={"PATH": str(tmp_path)}, executable=tmp_path / "merge")


def test_executable_is_a_conf(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it an executable could not be inspected, or used to verify an image."""
    expected = _streamed(conf)
    (tmp_path / "image.tar").write_bytes(expected)
    program = _wrapped(conf, *options, "-t", "own:1")
    plan, known = (
        json.loads(_run(*COMMAND, "inspect", "--json", path).stdout) for path in (program, conf)
    )
    assert plan["images"] == known["images"]
    assert _streamed(program) == expected
    done = _run(*COMMAND, "verify", tmp_path / "image.tar", "--conf", program)
    assert done.returncode == 0, done.stdout
    exported = [_run(*COMMAND, "export", "-q", path).stdout for path in (program, conf)]
    assert exported[0] == exported[1] != b""
    again = tmp_path / "again"
    again.mkdir()
    assert _wrapped(program, "--embed", directory=again).read_bytes().endswith(conf.read_bytes())
    _assert_streams([_wrapped(program, directory=again)], expected)
    assert (again / "stream-hello").read_bytes().count(EMBEDDED) == 0


@pytest.mark.parametrize(
    ("script", "wrong"),
    [
        (b"#!/bin/sh\n", "is an executable without a conf; give the conf itself"),
        (REFERRED, "is an executable with a malformed path of its conf"),
        (REFERRED + b'"conf.json"', "is an executable with a malformed path of its conf"),
        (REFERRED + b'"/proc/self/cwd/x"', "is an executable that refers to itself"),
    ],
)
def test_executable_without_a_conf_is_none(tmp_path: Path, script: bytes, wrong: str) -> None:
    """Without it a script could be reported as invalid JSON, or be read forever."""
    (tmp_path / "x").write_bytes(b"#!" + script)
    for command in ([], ["inspect"], ["wrap", "-o", "-"]):
        done = _run(*COMMAND, *command, "./x", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.decode() == f"stream-image: ./x: {wrong}\n"


def test_conf_of_an_executable_is_gone(conf: Path) -> None:
    """Without it the error could name the executable, which is there."""
    program = _wrapped(conf)
    conf.unlink()
    done = _run(*COMMAND, "inspect", program)
    assert done.returncode == 2
    wrong = "cannot be read: No such file or directory"
    assert done.stderr.decode() == f"stream-image: {conf}: {wrong}\n"


@pytest.mark.slow
def test_large_conf(conf: Path) -> None:
    """Without it an embedded conf could be limited to the length of an argument, or end where its
    text looks like the script's.
    """
    document = json.loads(conf.read_text("utf-8"))
    text = "'\"$(id)`id`\\\n" + EMBEDDED.decode() + "EOF\nEOF\n" + "x" * (5 * MIB)
    document["config"] = {"Labels": {"large": text, "integer": "1" * MIB, "ü€😀": "ü€😀"}}
    conf.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
    expected = _streamed(conf)
    program = _wrapped(conf, "--embed")
    conf.unlink()
    for shell in ([], *SHELLS):
        _assert_streams([*shell, program], expected, env={})


def test_too_large_to_embed(
    conf: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without it the executable of a conf at the size limit could exceed it, and be no conf."""
    monkeypatch.setattr(wrapper, "MAX_CONF", conf.stat().st_size)
    target = conf.with_name("stream-hello")
    assert main(["wrap", str(conf), "--embed", "-o", str(target)]) == 2
    assert capfd.readouterr().err == (
        f"stream-image: {conf}: is too large to embed; leave out --embed\n"
    )
    assert not target.exists()
    assert main(["wrap", str(conf), "-o", str(target)]) == 0


@pytest.mark.slow
def test_links_to_the_conf_are_kept(conf: Path, tmp_path: Path) -> None:
    """Without it a symlink such as /run/current-system/… could be resolved when wrapping, or a path
    with `..` lead to another file.
    """
    (tmp_path / "systems" / "one").mkdir(parents=True)
    (tmp_path / "current").symlink_to("systems/one")
    shutil.copy(conf, tmp_path / "systems" / "one" / "conf.json")
    shutil.copy(conf, tmp_path / "systems" / "beside.json")
    program = _wrapped(tmp_path / "current" / "conf.json", directory=tmp_path)
    _assert_streams([program], _streamed(conf))
    (tmp_path / "systems" / "two").mkdir()
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to("systems/two")
    other = json.loads(conf.read_text("utf-8"))
    other["repo_tag"] = "two:2"
    (tmp_path / "current" / "conf.json").write_text(json.dumps(other), "utf-8")
    _assert_streams([program], _streamed(tmp_path / "systems" / "two" / "conf.json"))

    done = _wrap("current/../beside.json", "-o", "stream-hello", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    _assert_streams([program], _streamed(conf))


def test_wrong_conf_yields_nothing(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it an invalid conf could be found only when the image is needed, or the old executable be lost."""
    program = _wrapped(conf, *options)
    before = program.read_bytes()
    document = json.loads(conf.read_text("utf-8"))
    document["store_layers"] = [[f"{tmp_path}/store/none"], []]
    conf.write_text(json.dumps(document), "utf-8")
    done = _wrap(conf, *options, "-o", program)
    assert (done.returncode, done.stdout) == (2, b"")
    assert len(done.stderr.splitlines()) == 2
    assert program.read_bytes() == before
    done = _wrap(conf, *options, "-o", "-", "-t", "no tag")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--repo-tag: " in done.stderr
    assert leftovers(tmp_path) == ["conf.json", "store", "stream-hello"]


def test_relative_paths_in_the_conf(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it another working directory could give another base image, or none."""
    (tmp_path / "base.tar").write_bytes(_streamed(conf))
    layer = tmp_path / "top"
    layer.mkdir()
    (layer / "layer.tar").write_bytes(bytes(1024))
    (layer / "checksum").write_text("0" * 64)
    document = {"repo_tag": "x:1", "from_image": "base.tar:test:1", "customisation_layer": "top"}
    conf.write_text(json.dumps(document), "utf-8")
    done = _wrap("conf.json", *options, "-o", "stream-hello", cwd=tmp_path)
    assert done.returncode == 2
    why = "is relative to the working directory; write an absolute path"
    assert done.stderr.decode().splitlines() == [
        f"stream-image: conf.json: from_image: base.tar {why}",
        f"stream-image: conf.json: customisation_layer: top {why}",
    ]
    assert "stream-hello" not in leftovers(tmp_path)


def test_conf_that_has_no_lasting_path(conf: Path, tmp_path: Path) -> None:
    """Without it an executable could refer to a conf in a place that does not last."""
    for source in ("-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"):
        with conf.open("rb") as stdin:
            done = _wrap(source, "-o", tmp_path / "x", stdin=stdin)
        assert done.returncode == 2
        assert done.stderr.endswith(b": does not last as a file; give --embed\n")
    link = tmp_path / "link"
    link.symlink_to(conf)
    for output in (conf, link):
        before = conf.read_bytes()
        done = _wrap(conf, "-o", output)
        assert done.returncode == 2
        assert b"is the conf; choose another file" in done.stderr
        assert conf.read_bytes() == before
    assert "x" not in leftovers(tmp_path)


# ---- the file


def test_same_bytes(conf: Path, options: Sequence[str], traps: Path) -> None:
    """Without it the executable's own hash could change from build to build."""
    expected = _wrapped(conf, *options).read_bytes()
    for name, cwd in ((conf, "/"), ("conf.json", conf.parent), ("../conf.json", traps)):
        command = (sys.executable, "-P", "-m", "stream")
        environment = {"PYTHONPATH": "/nonexistent", "LC_ALL": "C", "HOME": str(traps), "TZ": "Asia/Tokyo"}  # fmt: skip
        done = _wrap(name, *options, "-o", "-", cwd=cwd, command=command, env=environment)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o027, 0o750)])
def test_mode(conf: Path, umask: int, mode: int) -> None:
    """Without it the file could lack execute permission, or have it for users who must not run it."""
    target = conf.parent / "stream-hello"
    target.write_bytes(b"older")
    assert _wrap(conf, "-o", target, umask=umask).returncode == 0
    assert stat.S_IMODE(target.stat().st_mode) == mode


def test_output_is_asked_for(conf: Path) -> None:
    """Without it a script could be printed to a terminal, or redirected into a file that is not executable."""
    done = _wrap(conf)
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"-o/--output" in done.stderr


def test_output_fails(conf: Path) -> None:
    """Without it a truncated script on a full disk could pass for a valid one."""
    done = _wrap(conf, "-o", "/dev/full")
    assert (done.returncode, done.stderr) == (
        1, b"stream-image: /dev/full cannot be written: No space left on device\n",
    )  # fmt: skip
    with Path("/dev/full").open("wb") as full:
        argv = [*COMMAND, "wrap", str(conf), "-o", "-"]
        ended = subprocess.run(argv, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (
        1, b"stream-image: standard output cannot be written: No space left on device\n",
    )  # fmt: skip


# ---- the end


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Return a conf larger than the buffer of a pipe."""
    store = Store.below(tmp_path)
    store.file("large", BALLAST)
    return store.conf(["large"])


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals(large: Path, options: Sequence[str], signum: signal.Signals) -> None:
    """Without it a signal could end a shell and leave its child streaming."""
    program = _wrapped(large, *options)
    with Run("-q", command=[str(program)]) as run:
        run.read(MIB)
        run.stall()
        assert os.path.samefile(f"/proc/{run.process.pid}/exe", sys.executable)
        outcome, _ = run.stopped_by(signum)
    assert outcome.status == 128 + signum
    assert outcome.stderr == ""
    assert_unfinished(outcome.stdout)


@pytest.mark.slow
def test_closed_pipe(large: Path, options: Sequence[str]) -> None:
    """Without it a consumer that closes its end could be reported as a failure of the executable."""
    program = _wrapped(large, *options)
    with Run("-q", command=[str(program)]) as run:
        run.read(MIB)
        run.close_pipe()
        outcome = run.wait()
    assert (outcome.status, outcome.stderr) == (1, "")


@pytest.mark.slow
def test_faults_are_those_of_the_conf(conf: Path, options: Sequence[str], tmp_path: Path) -> None:
    """Without it an error could not name its file, or a script not learn of it."""
    program = _wrapped(conf, *options)
    gone = tmp_path / "store" / "one"
    gone.unlink()
    done = _run("./stream-hello", cwd=tmp_path)
    name = "./stream-hello" if options else conf
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"stream-image: {name}: store_layers[0][0]: {gone}: no such file\n"
    )
    assert members(_wrapped_again(program, gone)) != []


def _wrapped_again(program: Path, gone: Path) -> bytes:
    """Return the output of the executable once the store path is there again."""
    gone.write_bytes(b"content")
    return bytes(_run(program, "-q").stdout)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "mode"),
    [("<&-", MODES[1]), (">&-", MODES[0]), ("2>&-", MODES[1]), ("<&- >&- 2>&-", MODES[0])],
)
def test_closed_standard_streams(conf: Path, mode: Sequence[str], closed: str) -> None:
    """Without it the shell's own files could take the place of closed streams."""
    program = _wrapped(conf, *mode)
    ended = [
        _run("sh", "-c", f'"$@" {closed}', "-", *argv, "-q")
        for argv in ([program], [*COMMAND, conf])
    ]
    assert ended[0].returncode == ended[1].returncode
    assert ended[0].stdout == ended[1].stdout
    assert ended[0].stderr == ended[1].stderr
