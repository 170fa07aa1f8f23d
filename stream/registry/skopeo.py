"""Images in registries, read with skopeo: the bytes of a manifest, or a whole image into a
directory.

The only module that runs skopeo. It finds credentials where containers-auth.json(5) says, and
docker's. Must not know platforms, layers or archives, nor what a manifest says.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import IO

from stream.errors import RegistryError
from stream.oci.reference import Location
from stream.registry.trust import Access
from stream.text import one_line

PROGRAM = "skopeo"
_MESSAGE = re.compile(r'level=fatal msg="((?:[^"\\]|\\.)*)"')


def read_manifest(location: Location, access: Access) -> bytes:
    """Return the manifest or index at `location` as it is there. Its digest is not checked.
    Raises RegistryError.
    """
    words = ["inspect", "--raw", *_options(access, ""), f"docker://{location}"]
    return _skopeo(words, location, subprocess.PIPE)


def fetch(
    location: Location, directory: str, temporary: str, access: Access, progress: int | None = None
) -> None:
    """Write the image at `location`, which is not an index, into the new directory `directory`,
    as containers-transports(5) describes it for dir: manifest and blobs as they are in the
    registry. Skopeo's own files are below `temporary`. Its progress goes to the descriptor
    `progress`, unless that is None. Raises RegistryError.
    """
    quiet = ["--quiet"] if progress is None else []
    copy = ["copy", *quiet, "--remove-signatures", *_options(access, "src-")]
    words = ["--tmpdir", temporary, *copy, f"docker://{location}", f"dir:{directory}"]
    _skopeo(words, location, subprocess.DEVNULL if progress is None else progress)


def _options(access: Access, prefix: str) -> list[str]:
    # Without the option, the host's registries.conf applies.
    options = [] if access.tls_verify else [f"--{prefix}tls-verify=false"]
    if access.authfile is not None:
        options += [f"--{prefix}authfile", access.authfile]
    return options


def _skopeo(words: list[str], location: Location, output: int | IO[bytes]) -> bytes:
    """Run skopeo, and return its output if that is a pipe. Raises RegistryError."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise RegistryError(str(location), f"needs {PROGRAM}, which is not installed")
    try:
        # No policy: it is about signatures, and what is fetched is known by its digest.
        ended = subprocess.run(  # noqa: S603 — no shell; a location begins with "docker://"
            [program, "--insecure-policy", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise RegistryError(
            str(location), f"{program} cannot be started: {error.strerror}"
        ) from error
    if ended.returncode:
        raise RegistryError(str(location), _reason(ended.stderr, ended.returncode))
    return ended.stdout or b""


def _reason(errors: bytes, status: int) -> str:
    """Return why skopeo failed, in its own words."""
    text = errors.decode(errors="replace").strip()
    if found := _MESSAGE.findall(text):
        text = re.sub(r"\\(.)", r"\1", found[-1])
    last = text.splitlines()[-1] if text else f"ended with status {status}"
    return one_line(f"{PROGRAM}: {last}")
