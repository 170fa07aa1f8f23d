"""Images of the functions, as containers that run in docker."""

from pathlib import Path

import pytest
from consumers.conftest import docker, isolation  # noqa: F401 — fixtures
from consumers.daemons import Docker

from .harness import Functions

pytestmark = [pytest.mark.consumers]

IMAGES = """
    let
      # Prints what a user without privileges sees.
      check = pkgs.runCommand "check" { } ''
        mkdir -p $out/bin
        {
          echo '#!/bin/sh'
          echo 'cd / && stat -c "%n %a %u:%g" nix nix/store data ; id -u; id -G'
          echo 'cat /etc/ssl/certs/ca-bundle.crt /etc/ssl/certs/ca-certificates.crt'
          echo 'cat /etc/pki/tls/certs/ca-bundle.crt; grep -c . /etc/passwd; env | grep ^A='
          echo 'cat $(cat /data/needed)'
        } > $out/bin/check
        chmod +x $out/bin/check
      '';
      needed = pkgs.writeText "needed" "needed by what commands made";
      arguments = {
        name = "running";
        contents = [ check pkgs.busybox binSh usrBinEnv caCertificates fakeNss ];
        fakeRootCommands = "mkdir data; echo ${needed} > data/needed; chown -R 1000:1001 data";
        config = { Cmd = [ "check" ]; User = "1000:1001"; Env = [ "PATH=/bin" "A=a" ]; };
      };
      running = streamLayeredImage arguments;
      limited = running.override { name = "limited"; maxLayers = 2; };
      mounted = running.override { name = "mounted"; includeStorePaths = false; };
    in
"""
SEEN = """\
nix 755 0:0
nix/store 755 0:0
data 755 1000:1001
1000
1001
certificates
certificates
certificates
2
A=a
needed by what commands made"""


@pytest.mark.slow
def test_images_run(functions: Functions, docker: Docker, tmp_path: Path) -> None:  # noqa: F811
    """As an ordinary user, with programs from the store, as they ran before."""
    store = f"{functions.nix.root}/nix/store"
    for name, options in {
        "running": (),
        "limited": (),
        "mounted": (f"--volume={store}:/nix/store:ro",),
    }.items():
        archive = tmp_path / f"{name}.tar"
        archive.write_bytes(functions.run(functions.name(functions.build(f"{IMAGES} {name}"))))
        docker.load_file(archive)
        tag = f"{name}:{functions.evaluate(f'{IMAGES} {name}.imageTag')}"
        assert tag in docker.images()
        created = docker.output("docker", "image", "inspect", "--format={{.Created}}", tag)
        assert created == "1970-01-01T00:00:01Z\n"
        said = docker.output("docker", "run", "--rm", "--network=none", *options, tag)
        # A mounted store is the host's, with its owner and mode.
        seen = [line for line in said.splitlines() if not line.startswith("nix") or not options]
        expected = [line for line in SEEN.splitlines() if not line.startswith("nix") or not options]
        assert seen == expected, name
