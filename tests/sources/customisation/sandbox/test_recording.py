"""What is recorded of commands whose programs no preload reaches."""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require, unmet

from sources.customisation.sandbox.nobody import NOBODY
from stream.sources.customisation.sandbox import recording

# Runs a script and reports what was recorded of each file below the working directory.
DRIVER = """
import json, os, sys
code, script = sys.argv[1:]
module = type(sys)("recording")
sys.modules["recording"] = module
exec(compile(code, "recording", "exec"), vars(module))
recorder = module.Recorder(faked=False)
child = os.fork()
if not child:
    module._set_capabilities(())
    module._libc.prctl(38, 1, 0, 0, 0)  # no new privileges
    os.environ["ATTACHED"] = str(recorder.attach(preloaded=os.environ["PRELOADED"] == "1"))
    os.execv("/bin/sh", ["sh", "-c", script])
started = recorder.start()
_, status = os.waitpid(child, 0)
recorder.stop()
found = {}
for above, directories, files in os.walk("."):
    for name in directories + files:
        path = os.path.relpath(os.path.join(above, name))
        entry = os.lstat(path)
        found[path] = recorder.find(os.fsencode(path), (entry.st_dev, entry.st_ino))
print(json.dumps([started, status, found]))
"""
Run = Callable[..., dict[str, Any]]
# One that others may run, too.
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin:/run/current-system/sw/bin")


@pytest.fixture(scope="module")
def raw() -> Iterator[Path]:
    """Compile the program that makes system calls itself."""
    require(["gcc"])
    directory = Path(tempfile.mkdtemp(prefix="raw"))
    directory.chmod(0o755)
    program = directory / "raw"
    source = Path(__file__).with_name("raw.c")
    subprocess.run(["gcc", "-static", "-O1", "-o", program, source], check=True)
    yield program
    program.unlink()
    directory.rmdir()


@pytest.fixture(params=["self", "nobody"])
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    """Return a function that runs a script, and returns the record of each file."""
    require(["busybox"])
    user = None
    if request.param == "nobody":
        if os.geteuid() != 0:
            pytest.skip("needs root, to be somebody else")
        if PYTHON is None:
            pytest.skip("this Python is closed to others")
        user = NOBODY
    code = Path(recording.__file__).read_text("utf-8")
    with tempfile.TemporaryDirectory(prefix="r") as directory:
        if user is not None:
            os.chown(directory, user, user)

        def run(
            script: str, output: list[str] | None = None, *, preloaded: bool = False
        ) -> dict[str, Any]:
            done = subprocess.run(
                [PYTHON or sys.executable, "-I", "-S", "-c", DRIVER, code, script],
                check=False, capture_output=True, text=True, cwd=directory, user=user, group=user,
                env={**os.environ, "PRELOADED": str(int(preloaded))},
                extra_groups=None if user is None else [], timeout=60,
            )  # fmt: skip
            assert done.stderr == ""
            *said, last = done.stdout.splitlines()
            started, status, found = json.loads(last)
            if not started:
                unmet("no seccomp user notification")
            assert status == 0, said
            if output is not None:
                output += said
            return {path: record for path, record in found.items() if record}

        yield run


def owned(uid: int, gid: int | None) -> list[Any]:
    """Return the record of a change of owner."""
    return [uid, gid, None, None]


def device(kind: int, major: int, minor: int) -> list[Any]:
    """Return the record of a device."""
    return [0, 0, [kind, major, minor], None]


def test_static_programs(run: Run) -> None:
    """The owners that a static program set would be lost, or it would fail."""
    found = run(
        'set -e; b() { busybox "$@"; }; b mkdir -p d/e; b touch a d/f; b ln -s a l; b chown -R 8:9 d;'
        " b chown 5:6 l; b chown -h 7:7 l; b mknod -m 600 c c 1 3; b mknod b b 8 1; b mknod p p"
    )
    assert found == {
        "a": owned(5, 6),
        "d": owned(8, 9),
        "d/e": owned(8, 9),
        "d/f": owned(8, 9),
        "l": owned(7, 7),
        "c": device(stat.S_IFCHR, 1, 3),
        "b": device(stat.S_IFBLK, 8, 1),
    }


def test_calls_of_no_library(run: Run, raw: Path) -> None:
    """Programs in Go would be refused, or not recorded."""
    said: list[str] = []
    found = run(
        f"touch a b c; mkdir d; ln -s ../a d/l; cd d; {raw} fchown ../a 1 2; {raw} fchown ../a -1 3;"
        f" {raw} fchownat .. b 4 -1 0; {raw} fchownat ../c '' 5 6 {0x1000};"
        f" {raw} fchownat .. d/l 7 7 {0x100}; {raw} mknodat n 020666 1 5; {raw} bad;"
        f" {raw} fchownat . nothing 1 1 0; {raw} mknodat n 020666 1 5; {raw} mknodat no/n 020666 1 5",
        said,
    )
    assert found == {
        "a": owned(1, 3),
        "b": owned(4, None),
        "c": owned(5, 6),
        "d/l": owned(7, 7),
        "d/n": device(stat.S_IFCHR, 1, 5),
    }
    refused = ["EFAULT", "ENOENT", "EEXIST", "ENOENT"]  # what the kernel says, as ever
    assert said == ["ok"] * 6 + refused


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has other old system calls")
def test_calls_of_32_bits(run: Run, raw: Path) -> None:
    """A program for i386 would be refused, or give files to other users than it named."""
    said: list[str] = []
    found = run(
        f"touch a b; {raw} i386 212 a 70000 -1; {raw} i386 182 b 7 65535; {raw} i386 16 b -1 8"
        f"; {raw} i386 212 nothing 1 1",
        said,
    )
    if said[0] == "ENOSYS":
        pytest.skip("the kernel has no system calls of i386")
    assert found == {"a": owned(70000, None), "b": owned(7, 8)}
    assert said == ["ok", "ok", "ok", "ENOENT"]


def test_threads_at_once(run: Run, raw: Path) -> None:
    """A program's threads would get each other's owners."""
    names = " ".join(f"d{number}" for number in range(8))
    found = run(f"mkdir {names}; {raw} threads {names}")
    assert found == {
        f"d{number}/{i}": owned(i + 1, 1000 + i) for number in range(8) for i in range(20)
    }


def test_number_of_a_removed_file(run: Run) -> None:
    """A new file would belong to the owner of a removed one, as its inode number is the same."""
    found = run(
        "for i in 1 2 3 4 5 6 7 8; do touch old; busybox chown 5:6 old; rm old; touch new$i; done"
    )
    assert {record[:3] == [0, 0, None] for record in found.values()} <= {True}


def test_set_id_bits_are_cleared(run: Run) -> None:
    """A program would run as an owner that it was not meant for."""
    said: list[str] = []
    run("touch a; mkdir d; chmod 6755 a d; busybox chown 3:3 a d; busybox stat -c %a a d", said)
    assert said == ["755", "6755"]


def test_links_lead_where_they_lead_the_caller(run: Run, raw: Path) -> None:
    """In a root directory of their own, commands could set the owner of files outside."""
    say: list[str] = []
    run(
        "mkdir root root/etc; touch root/etc/file file; ln -s /etc/file root/link;"
        " ln -s /../../../file root/up; ln -s / root/top"
    )
    found = run(
        f"cp {raw} raw; ./raw inside root fchownat . link 5 6 0;"
        " ./raw inside root fchownat . top/../../up 7 8 0",
        say,
    )
    if say[0] == "EPERM":
        unmet("no user namespaces")
    assert found == {"root/etc/file": owned(5, 6)}
    assert say == ["ok", "ENOENT"]


@pytest.mark.parametrize("preloaded", [False, True])
def test_status_is_what_was_recorded(run: Run, preloaded: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """Static busybox sets the owner that it read with each group: a file would be root's again."""
    said: list[str] = []
    found = run(
        "touch a b; busybox chown 5 a; busybox chown :6 a; busybox mknod c b 8 1; ln -s a l;"
        " busybox stat -c '%u %g %F' a b; busybox stat -c '%t %T %F' c; busybox stat -Lc %u l;"
        " busybox cp -a a copy; stat -c %u a",
        said,
        preloaded=preloaded,
    )
    assert found["a"] == found["copy"] == owned(5, 6)
    before = "0 0" if os.geteuid() == 0 and said[1].startswith("0") else f"{NOBODY} {NOBODY}"
    assert said[:4] == [
        "5 6 regular empty file", f"{before} regular empty file", "8 1 block special file", "5",
    ]  # fmt: skip
    # A program that can load the preload asks fakeroot.
    assert said[4] == (before.split(maxsplit=1)[0] if preloaded else "5")


def test_callers_that_die(run: Run) -> None:
    """One killed command would stop all others."""
    found = run(
        "mkdir d; for i in 1 2 3 4 5; do (while :; do busybox chown -R 3:3 d; done) &"
        " victim=$!; sleep 0.02; kill -9 $victim; done; touch a; busybox chown 5:6 a"
    )
    assert found["a"] == owned(5, 6)


def test_without_user_notification(run: Run) -> None:
    """Whoever runs commands could not tell, and would take all files to be root's."""
    said: list[str] = []
    copy = f"cat > m.py <<'EOT'\n{Path(recording.__file__).read_text()}\nEOT\n"
    nested = "import sys; sys.path[:0] = ['.']; import m; print(m.Recorder(faked=False).attach())"
    run(f'{copy}{PYTHON or sys.executable} -ISBc "{nested}"; echo $ATTACHED', said)
    # A process has at most one that is asked about it.
    assert said == ["False", "True"]
