"""Process 1 of a test's private namespaces: sets them up, reports it, and ends all processes in them at end of input.

Run by `isolation.py` under unshare(1), with the name of the top-level cgroup for consumers. Knows mounts and cgroups;
must not know images or consumers.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

# Consumers write to fixed places below these directories. A temporary overlay receives what they write,
# so that nothing must be created on the host before, or removed from it afterwards.
_OVERLAID = ("/etc", "/opt", "/var")

# crun refuses a host that mounts both versions of cgroups.
_HYBRID_CGROUP = "/sys/fs/cgroup/unified"

_SECONDS_TO_DIE = 10


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)


def _prepare() -> None:
    _run("ip", "link", "set", "lo", "up")
    _run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    for directory in _OVERLAID:
        upper, work = (Path(f"/run/overlay{directory}/{part}") for part in ("upper", "work"))
        upper.mkdir(parents=True)
        work.mkdir()
        layers = f"lowerdir={directory},upperdir={upper},workdir={work}"
        _run("mount", "-t", "overlay", "-o", layers, "overlay", directory)
    if Path(_HYBRID_CGROUP).is_mount():
        _run("umount", _HYBRID_CGROUP)


def _hold() -> None:
    # Orphans become children of process 1: the kernel must reap them, or their parents' tools wait for ever.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    # The test closes the other end when it has finished; the kernel closes it if the test is killed.
    while os.read(0, 1):
        pass


def _end_all() -> None:
    # They would end with process 1 anyway, but their cgroups can be removed only while it lives.
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while _others() and time.monotonic() < deadline:
        with suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)
        time.sleep(0.01)


def _others() -> bool:
    return any(entry.name.isdigit() and entry.name != "1" for entry in Path("/proc").iterdir())


def _remove_cgroup(name: str) -> None:
    hierarchies = Path("/sys/fs/cgroup")
    for top in (*hierarchies.glob(name), *hierarchies.glob(f"*/{name}")):
        for directory, _, _ in os.walk(top, topdown=False):
            Path(directory).rmdir()


if __name__ == "__main__":
    _prepare()
    _hold()
    _end_all()
    _remove_cgroup(sys.argv[1])
