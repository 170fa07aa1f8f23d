"""The CI example on three machines, each with a store and a cache of its own: what each of them reads,
hashes and sends.

The machines are network namespaces, joined by Ethernet to one with a registry and a binary cache.
"""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from dockertools.harness import REPOSITORY, write_command

from .isolation import Isolation, IsolationError, isolated
from .requirements import PATH, require, unmet

pytestmark = pytest.mark.consumers

EXAMPLE: Final = REPOSITORY / "examples" / "ci"
MATRIX: Final = (EXAMPLE / "matrix.yml").read_text("utf-8")
MIB: Final = 1 << 20
_HUB: Final = "10.77.0.1"
_RUNTIME: Final = 11 * MIB  # bytes of its files, in two layers
_SERVICE: Final = 600_000  # bytes of each service's
_BESIDE: Final = 250_000  # bytes of requests, documents and headers, at most

# Debian's programs in the place of nixpkgs, and packages whose content no compression makes smaller.
_NIXPKGS: Final = """{ }:
let
  minimal = arguments: import %(nix)s/minimal.nix ({ stream-image = "%(stream_image)s"; } // arguments);
  package = name: size: (minimal { }).runCommand name { } ''
    mkdir -p $out/bin
    /usr/bin/python3 -c 'import random; print(random.Random("${name}").randbytes(${size} // 2).hex(), end="")' \\
      > $out/bin/${name}
    chmod +x $out/bin/${name}
  '';
in
minimal {
  packages.python3 = package "python3" "6291456";
  packages.openssl = package "openssl" "5242880";
}
"""

# Runs stream-image, and notes in a file how many bytes of the store's large files it has read: those whose
# access time is no longer what it was set to. Confs and digests are small.
_COUNTED: Final = """#!/usr/bin/python3 -I
import os, pathlib, subprocess, sys
files = [one for one in pathlib.Path("/run/nix/store").rglob("*") if one.is_file() and not one.is_symlink()]
for file in files:
    os.utime(file, ns=(1, file.stat().st_mtime_ns))
status = subprocess.call(["%s", *sys.argv[1:]])
read = sum(file.stat().st_size for file in files if file.stat().st_atime_ns != 1 and file.stat().st_size > 100_000)
pathlib.Path("/run/read").write_text(str(read))
sys.exit(status)
"""
_CONFIG: Final = """sandbox = false
require-sigs = false
build-users-group =
experimental-features = nix-command
narinfo-cache-negative-ttl = 0
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine in namespaces of its own, with a checkout of the example."""

    isolation: Isolation
    checkout: Path
    environment: dict[str, str]

    @property
    def sent(self) -> int:
        """The bytes that its network interface has sent so far."""
        return self._counter(8)

    @property
    def received(self) -> int:
        """The bytes that its network interface has received so far."""
        return self._counter(0)

    def _counter(self, column: int) -> int:
        counters = Path(f"/proc/{self.isolation.pid}/net/dev").read_text("ascii")
        return int(counters.partition("eth0:")[2].split()[column])

    def change(self, service: str, text: str) -> None:
        """Write a version of a service, as a commit does."""
        (self.checkout / "services" / service).write_text(f"# {text}\n", "utf-8")

    def run(self, *words: str) -> str:
        """Return what a command prints in the checkout. It must succeed."""
        script = ("sh", "-euc", 'cd "$0" && exec "$@"', str(self.checkout), *words)
        done = self.isolation.run(script, self.environment)
        assert done.returncode == 0, done.stderr
        return f"{done.stderr}{done.stdout}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """The bytes of a job: of layers that its push has hashed, and of those that it has not touched; of
    blobs that were sent, of large files that were read, and of all that left the machine.
    """

    hashed: int
    held: int
    sent: int
    read: int
    network: int


def run_job(machine: Machine, name: str) -> Job:
    """Run the example's script for an image, as the matrix does."""
    before = machine.sent
    printed = machine.run("sh", "push.sh", name).splitlines()
    events = [json.loads(line) for line in printed if line.startswith('{"event"')]
    (pushed,) = [event for event in events if event["event"] == "pushed"]
    return Job(
        hashed=sum(event["size"] for event in events if event["event"] == "layer"),
        held=sum(event["size"] for event in events if event["event"] == "layer-held"),
        sent=pushed["sent"]["size"],
        read=int(machine.isolation.path("/run/read").read_text()),
        network=machine.sent - before,
    )


def connect(hub: Isolation, machines: Sequence[Isolation]) -> None:
    """Connect each machine with the hub, which has the address `_HUB`."""

    def ip(isolation: Isolation, *words: str) -> None:
        done = isolation.run(("ip", *words))
        assert done.returncode == 0, done.stderr

    ip(hub, "address", "add", f"{_HUB}/32", "dev", "lo")
    for number, machine in enumerate(machines, 1):
        ends = ("eth0", "netns", str(machine.pid)), (f"port{number}", "netns", str(hub.pid))
        subprocess.run(
            ("ip", "link", "add", *ends[0], "type", "veth", "peer", "name", *ends[1]), check=True
        )
        for isolation, (device, *_), last in ((machine, ends[0], 2), (hub, ends[1], 1)):
            ip(isolation, "address", "add", f"10.77.{number}.{last}/30", "dev", device)
            ip(isolation, "link", "set", device, "up")
        ip(machine, "route", "add", _HUB, "via", f"10.77.{number}.1")


def serve_registry(hub: Isolation) -> str:
    """Start an empty registry, and return its address."""
    configuration = hub.directory("/run/registry") + "/config.json"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/run/registry/data"}},
        "http": {"addr": f"{_HUB}:5000", "relativeurls": True},
    }
    hub.path(configuration).write_text(json.dumps(settings))  # JSON is a subset of YAML
    log = hub.logs / "docker-registry.log"
    hub.start(
        ("docker-registry", "serve", configuration),
        lambda: "listening on" in log.read_text(errors="replace"),
    )
    return f"{_HUB}:5000"


def serve_cache(hub: Isolation, directory: Path) -> str:
    """Serve a binary cache, which is empty yet, over HTTP. Return its URL."""
    directory.mkdir()
    (directory / "nix-cache-info").write_text("StoreDir: /run/nix/store\n")
    server = (sys.executable, "-u", "-m", "http.server", "--bind", _HUB, "-d", str(directory), "80")
    log = hub.logs / f"{server[0]}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    hub.start(server, lambda: "Serving HTTP" in log.read_text(errors="replace"))
    return f"http://{_HUB}"


def environment(
    command: Path, nixpkgs: Path, registry: str, cache: Path, url: str
) -> dict[str, str]:
    """Return the variables of a job: places that are the same on all machines, and what they share."""
    places = {"STORE": "store", "STATE": "state", "LOG": "log", "CONF": "conf"}
    return {
        **{f"NIX_{key}_DIR": f"/run/nix/{name}" for key, name in places.items()},
        "NIX_CONFIG": f"{_CONFIG}substituters = {url}\n",
        "NIX_PATH": f"nixpkgs={nixpkgs}:stream-image={REPOSITORY}",
        "PATH": f"{command}/counted:{PATH}",
        "XDG_CACHE_HOME": "/run/home/cache",
        "REGISTRY": f"{registry}/team",
        "UPLOAD": f"file://{cache}?compression=none",
        "PUSH_OPTIONS": "--insecure --progress json",
    }


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Make three machines, with a registry and a binary cache between them."""
    require(["nix", "nix-build", "docker-registry", "unshare", "nsenter", "mount", "ip"])
    command = write_command(tmp_path / "stream-image")
    (command / "counted").mkdir()
    counted = command / "counted" / "stream-image"
    counted.write_text(_COUNTED % (command / "bin" / "stream-image"))
    counted.chmod(0o755)
    nixpkgs = tmp_path / "nixpkgs.nix"
    nixpkgs.write_text(_NIXPKGS % {"nix": REPOSITORY / "nix", "stream_image": command})
    with ExitStack() as stack:
        try:
            hub, *others = (
                stack.enter_context(isolated(Path(shutil.copytree(EXAMPLE, tmp_path / name))))
                for name in ("hub", "one", "two", "three")
            )
        except IsolationError as error:
            unmet(str(error))
        connect(hub, others)
        cache = tmp_path / "binary-cache"
        url = serve_cache(hub, cache)
        shared = environment(command, nixpkgs, serve_registry(hub), cache, url)
        yield [Machine(isolation=one, checkout=one.logs, environment=shared) for one in others]


def test_no_job_reads_what_another_has_pushed(machines: list[Machine], tmp_path: Path) -> None:
    """Without it the example could hash, or send, on each machine what is there already."""
    one, two, three = machines
    runtime, services = (
        "runtime",
        re.findall(r"\w+", MATRIX.partition("service: [")[2].partition("]")[0]),
    )
    assert services == ["api", "web"]
    assert f"push.sh {runtime}" in MATRIX
    for number, service in enumerate(services):
        text = random.Random(number).randbytes(_SERVICE // 2).hex()
        for machine in machines:
            machine.change(service, text)

    job = run_job(one, runtime)
    assert _RUNTIME <= job.read <= job.hashed <= job.sent < _RUNTIME + _BESIDE
    for machine, service in zip((two, three), services, strict=True):
        received = machine.received
        job = run_job(machine, service)
        assert _SERVICE <= job.read <= job.hashed <= job.sent < _SERVICE + _BESIDE
        assert job.held > _RUNTIME
        assert job.network < _SERVICE + 2 * _BESIDE
        # Its store paths, of which layers are made here: no layer came over the network.
        assert machine.received - received < _RUNTIME + _SERVICE + 2 * _BESIDE

    # A machine that has seen neither the image nor its service pushes it again.
    job = run_job(two, "web")
    assert (job.read, job.hashed) == (0, 0)
    assert job.held > _RUNTIME + _SERVICE
    assert job.sent == 0
    assert job.network < _BESIDE

    # The next commit, on a machine that has never seen this image.
    three.change("api", random.Random("changed").randbytes(_SERVICE // 2).hex())
    job = run_job(three, "api")
    assert _SERVICE <= job.read <= job.hashed <= job.sent < _SERVICE + _BESIDE
    assert job.network < _SERVICE + 2 * _BESIDE

    # The binary cache has each store path once, and small files beside: no layers.
    sizes = [file.stat().st_size for file in (tmp_path / "binary-cache" / "nar").iterdir()]
    assert sum(sizes) < _RUNTIME + 3 * _SERVICE + 2 * _BESIDE
    for machine, is_built in ((one, True), (two, False), (three, False)):
        digests = machine.run("nix-build", "--no-out-link", "-A", "runtime.layerDigests").split()[
            -1
        ]
        (known,) = json.loads(machine.run("nix", "path-info", "--json", digests))
        assert known.get("ultimate", False) is is_built
        assert known["narSize"] < 4096
        assert known["references"] == []


def test_page_shows_the_example() -> None:
    """Without it people could copy other commands than those that are tested."""
    page = (REPOSITORY / "docs" / "fleet.md").read_text("utf-8")
    script = (EXAMPLE / "push.sh").read_text("utf-8").replace("\\\n    ", "")
    for line in page.partition("```sh\n")[2].partition("```")[0].splitlines():
        assert line in script
    shown = page.partition("```yaml\n")[2].partition("```")[0].splitlines()
    assert [line for line in shown if line not in MATRIX.splitlines()] == []
