"""What a recipe's commands can reach, line by line as ADR 8 has it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from consumers.requirements import require, unmet

from sources.customisation.sandbox.nobody import SITES, TESTS, call_as_nobody
from stream.model import Recipe
from stream.nix.store_root import Disk
from stream.sources.customisation.sandbox import isolation
from stream.sources.customisation.sandbox.commands import Steps, in_image, in_layer, run_commands
from stream.sources.customisation.tree import Tree

REPOSITORY = Path(__file__).parents[4]
ADR = REPOSITORY / "docs/adr/0008-commands-in-namespaces.md"
# How each is run.
MODES: dict[str, tuple[Steps, dict[str, Any]]] = {
    "extraCommands": (in_layer, {}),
    "fakeRootCommands": (in_layer, {}),
    "enableFakechroot": (in_layer, {"fakechroot": True}),
    "runAsRoot": (in_image, {}),
    "postMount": (in_image, {}),
}
FIELDS = {
    "extraCommands": "extra_commands",
    "runAsRoot": "run_as_root",
    "postMount": "post_mount",
}
WORD = "31459.5"  # an argument of a process of this machine
PYTHON = os.path.realpath(sys.executable)

# For each line of the table, commands that succeed if it is true. $A is the sandbox's own root
# directory if it can be reached, which shows what is outside of the tree if that is the root.
PROBES = {
    "the tree": "echo x > made && rm made",
    "`/tmp`, `/var/tmp`, `/dev/shm`": (
        "touch $TMPDIR/x /dev/shm/x && [[ -z $(find $TMPDIR/ -name 'stray*') ]]"
    ),
    "`/usr`, `/etc`, `/opt`, directories of `PATH`": (
        "[[ -r $(type -P bash) ]]"
        " && ! touch $A/usr/x $A/etc/x $A/opt/x $(dirname $(type -P bash))/x"
    ),
    "the store": "grep -q stored STORE/file && ! touch STORE/x && ! rm -f STORE/file",
    "home directories, `/var`, `/mnt`, `/run`": (
        "! ls HOME/* && ! ls $A/mnt && ! ls $A/var/lib && [[ -z $(ls -A $A/run) ]]"
    ),
    "`/sys`, with control groups": "[[ -z $(ls -A /sys) && -z $(ls -A $A/sys) ]]",
    "settings of the kernel in `/proc/sys`": (
        "[[ -n $(</proc/sys/kernel/osrelease) ]]"
        " && ! echo > /proc/sys/kernel/panic && ! echo > $A/proc/sys/kernel/panic"
    ),
    "devices other than `null`, `zero`, `full`, `random`, `urandom`, `tty`": (
        "echo > /dev/null && for name in $(ls /dev $A/dev | sort -u); do case $name in"
        " null|zero|full|random|urandom|tty|core|fd|ptmx|pts|shm|std*|/dev*|*:) ;; *) false ;; esac;"
        " done"
    ),
    "processes of this machine": (
        "! grep -slz 'WORD' /proc/[0-9]*/cmdline && [[ $(ls -d /proc/[0-9]* | wc -l) -lt 20 ]]"
    ),
    "the sandbox's first process, with which all others end": (
        "! (exec 9<> /proc/1/mem) && ! readlink /proc/1/root"
    ),
    "the program that runs them, with its descriptors": (
        "! (exec 9<> /proc/$PPID/mem) && ! readlink /proc/$PPID/fd/0"
        " && { [[ ! -e PYTHON ]] || PYTHON -ISc 'TAKE' $PPID; }"
    ),
    "the network, and abstract sockets": (
        "! (exec 9<>/dev/tcp/127.0.0.1/PORT) && ! PYTHON -ISc 'import socket;"
        ' socket.socket(socket.AF_UNIX).connect("\\0ABSTRACT")\''
    ),
    "the kernel's keyrings": (
        "grep -q '^Seccomp:.2$' /proc/self/status && { [[ ! -e PYTHON ]] || PYTHON -ISc 'KEYS'; }"
    ),
    "the file that is our standard error": "[[ $(readlink /proc/$$/fd/2) == pipe:* ]]",
    "other descriptors of ours": "! ls -l /proc/[0-9]*/fd | grep /secret",
    "capabilities, and those of set-user-ID programs": (
        "grep -q '^CapEff:.CAPABILITIES$' /proc/self/status"
        " && grep -q '^CapBnd:.CAPABILITIES$' /proc/self/status"
        " && grep -q '^NoNewPrivs:.1$' /proc/self/status"
    ),
}  # fmt: skip


# Reads the ID of the session's keyring: keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING).
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "ppc64le": 271, "s390x": 280}
KEYS = (
    "import ctypes, errno, sys; libc = ctypes.CDLL(None, use_errno=True);"
    f" found = libc.syscall({KEYCTL.get(os.uname().machine, -1)}, 0, -3, 0);"
    " sys.exit(found != -1 or ctypes.get_errno() != errno.ENOSYS)"
)
# Takes the first descriptors of another process with pidfd_getfd(2).
TAKE = (
    "import ctypes, os, sys; libc = ctypes.CDLL(None); pid = os.pidfd_open(int(sys.argv[1]));"
    " sys.exit({libc.syscall(438, pid, fd, 0) for fd in range(32)} != {-1})"
)


def table() -> list[str]:
    """Return the first column of the table."""
    text = ADR.read_text("utf-8").partition("| what | reached |")[2].partition("\n## ")[0]
    return re.findall(r"^\| (?!-)(.+?) \|", text, re.MULTILINE)


def test_every_line_is_tried() -> None:
    """A line without a probe would be a claim."""
    assert table() == [*PROBES]


@contextmanager
def left_open(name: str) -> Iterator[None]:
    """Have a file open as a shell leaves it to the programs that it starts."""
    with tempfile.NamedTemporaryFile(prefix=name) as file:
        os.set_inheritable(file.fileno(), True)  # noqa: FBT003 — its only parameter
        yield


def reached(values: dict[str, str]) -> list[bool]:
    """Run all probes in one run of commands; return which of them succeeded."""
    mode = values["MODE"]
    probes = "\n".join(
        f"if ( {probe} ) > /dev/null 2>&1; then echo 1; else echo 0; fi >> results"
        for probe in PROBES.values()
    )
    # Of runAsRoot: CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_SYS_CHROOT.
    kept = 1 << 1 | 1 << 3 | 1 << 18 if mode in {"runAsRoot", "postMount"} else 0
    for name, value in {**values, "CAPABILITIES": f"{kept:016x}"}.items():
        probes = probes.replace(name, value)
    # A process that runs outside of the tree: the one that starts us.
    script = (
        f"cd mnt 2> /dev/null || :; A=/proc/$PPID/root; ls $A > /dev/null 2>&1 || A=\n{probes}\n"
    )
    steps, more = MODES[mode]
    fields: dict[str, Any] = {FIELDS.get(mode, "fake_root_commands"): script, **more}
    recipe = Recipe(**fields)
    disk = Disk(os.fsencode(values["STORE"]))
    with (
        left_open("secret"),
        run_commands(Tree(), recipe, disk=disk, mtime=1, warn=print, steps=steps) as tree,
    ):
        node = tree.find(b"results")
        assert node is not None
        return [line == "1" for line in Path(os.fsdecode(node.source)).read_text().split()]


@pytest.fixture(scope="module")
def surroundings() -> Iterator[dict[str, str]]:
    """What is on the machine, and must not be reached."""
    require([isolation.BUBBLEWRAP, "fakeroot"])
    command = ["unshare", "--user", "--map-root-user", "--mount", "true"]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        unmet("no user namespaces")
    place = Path(tempfile.mkdtemp(prefix="stray-", dir="/" if os.geteuid() == 0 else None))
    place.chmod(0o755)
    (place / "store").mkdir()
    (place / "store" / "file").write_text("stored")
    (place / "home").mkdir()
    (place / "home" / "file").write_text("private")
    abstract = f"stream-image-test-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as named,
        subprocess.Popen(["sleep", WORD]) as process,
    ):
        named.bind(f"\0{abstract}")
        named.listen()
        try:
            yield {
                "STORE": str(place / "store"),
                "HOME": str(place / "home"),
                "WORD": WORD.replace(".", "[.]"),
                "PORT": str(listener.getsockname()[1]),
                "ABSTRACT": abstract,
                "KEYS": KEYS,
                "TAKE": TAKE,
                "PYTHON": PYTHON,
            }
        finally:
            process.kill()
            shutil.rmtree(place)


@pytest.fixture(scope="module", params=MODES)
def results(request: pytest.FixtureRequest, surroundings: dict[str, str]) -> dict[str, bool]:
    """The probes that succeeded, by line."""
    return dict(zip(PROBES, reached({**surroundings, "MODE": request.param}), strict=True))


@pytest.mark.parametrize("line", PROBES)
def test_reach(results: dict[str, bool], line: str) -> None:
    """Without it a recipe from somebody else could change more than its image."""
    assert results[line]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_reach_of_an_ordinary_user(surroundings: dict[str, str]) -> None:
    """A user's own files would be reached, as the commands' user has the same number."""
    place = Path(tempfile.mkdtemp(prefix="c"))
    place.chmod(0o1777)
    try:
        arguments = [{**surroundings, "MODE": mode} for mode in MODES]
        module = "sources.customisation.sandbox.test_reach"
        for mode, found in zip(
            MODES, call_as_nobody(module, "reached", arguments, place), strict=True
        ):
            assert dict(zip(PROBES, found, strict=True)) == dict.fromkeys(PROBES, True), mode
    finally:
        shutil.rmtree(place)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to have nothing but root's number")
def test_reach_of_root_alone(surroundings: dict[str, str]) -> None:
    """In a user namespace that has only root, such as Nix's sandbox for root, the commands' user
    is root: the kernel's settings would be theirs.
    """
    place = Path(tempfile.mkdtemp(prefix="c"))
    try:
        code = (
            f"import json, sys; sys.path[:0] = {[*SITES, str(TESTS)]!r};"
            " from sources.customisation.sandbox.test_reach import reached;"
            " print(json.dumps([reached(each) for each in json.load(sys.stdin)]))"
        )
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", sys.executable, "-c", code],
            input=json.dumps([{**surroundings, "MODE": mode} for mode in MODES]).encode(),
            env={**os.environ, "TMPDIR": str(place)}, check=True, capture_output=True,
        )  # fmt: skip
        for mode, found in zip(MODES, json.loads(done.stdout), strict=True):
            assert dict(zip(PROBES, found, strict=True)) == dict.fromkeys(PROBES, True), mode
    finally:
        shutil.rmtree(place)
