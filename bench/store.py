"""The mixed store: Debian packages, each unpacked into its own store path.

Knows packages, apt-get and dpkg-deb; must not know confs or measuring.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from bench.storepaths import Store, StorePath, base_name

_LIST = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packages.txt")
_BATCH = 25  # packages per download: bounds the disk that archives take


def mixed_store(store: Store, scale: float) -> list[StorePath]:
    """Return the store paths of the packages selected by `scale`; missing ones are built."""
    names = _select(_package_list(), scale)
    found = {name: path for name in names if (path := store.find(f"deb-{name}"))}
    missing = _known([name for name in names if name not in found])
    for start in range(0, len(missing), _BATCH):
        _say(f"mixed store: package {start + 1} of {len(missing)}")
        with tempfile.TemporaryDirectory(dir=store.store_dir, prefix=".debs-") as directory:
            for name, archive in _download(missing[start : start + _BATCH], directory):
                found[name] = _unpack(store, name, archive)
    if not found:
        raise SystemExit("bench: no package could be downloaded; try `apt-get update`")
    return [found[name] for name in names if name in found]


def _package_list() -> dict[str, int]:
    """Return names and approximate sizes in KiB, in the order of the file."""
    with open(_LIST, encoding="utf-8") as file:
        lines = [line.split() for line in file if line.strip() and not line.startswith("#")]
    return {name: int(size) for name, size in lines}


def _select(sizes: dict[str, int], scale: float) -> list[str]:
    """Choose about `scale` of the bytes: in an arbitrary but fixed order, every name that fits."""
    budget = scale * sum(sizes.values())
    taken = set()
    for name in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if sizes[name] <= budget:
            budget -= sizes[name]
            taken.add(name)
    return [name for name in sizes if name in taken]


def _known(names: list[str]) -> list[str]:
    """Return those of `names` that the package index has, with a warning for each other."""
    if not names:
        return []
    output = _run("apt-cache", "policy", *names).stdout.splitlines()
    pairs = zip(output, output[2:], strict=False)  # name, installed version, candidate version
    known = {
        head.rstrip(":")
        for head, candidate in pairs
        if not head.startswith(" ") and not candidate.endswith("(none)")
    }
    for name in names:
        if name not in known:
            _say(f"warning: no package {name}, left out")
    return [name for name in names if name in known]


def _download(names: list[str], directory: str) -> Iterator[tuple[str, str]]:
    """Yield names and archives. One bad package fails a whole batch; then each is tried alone."""
    if not _fetch(names, directory):
        for name in names:
            if not _fetch([name], directory):
                _say(f"warning: package {name} cannot be downloaded, left out")
    for archive in sorted(os.listdir(directory)):
        if archive.endswith(".deb"):
            yield archive.split("_")[0], os.path.join(directory, archive)


def _fetch(names: list[str], directory: str) -> bool:
    # As root, apt would switch to a user that cannot write here.
    command = ("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *names)
    return _run(*command, cwd=directory).returncode == 0


def _unpack(store: Store, name: str, archive: str) -> StorePath:
    version = _run("dpkg-deb", "-f", archive, "Version").stdout.strip()
    with open(archive, "rb") as file:
        seed = hashlib.file_digest(file, "sha256").digest()

    def fill(directory: str) -> None:
        subprocess.run(["dpkg-deb", "-x", archive, directory], check=True)

    return store.build(f"deb-{name}", base_name(seed, f"{name}-{version}"), fill)


def _run(*command: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
