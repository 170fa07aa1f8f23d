"""Credentials of registries, as users have them: files of podman, skopeo and docker, and helper
programs.

containers-auth.json(5), docker's config.json, and the protocol of docker-credential-helpers. Must
not know HTTP or tokens.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from stream.errors import RegistryError
from stream.parsing import parse_json
from stream.text import one_line
from stream.values import dataclass, field

if TYPE_CHECKING:
    import subprocess

_DOCKER_HUB = "docker.io"
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_TOKEN_USER = "<token>"  # the user name of an identity token  # noqa: S105
_HELPER = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_HELPER_TIME = 30.0  # seconds
_MAX_OUTPUT = 64 << 10  # bytes of a helper
RUN = "/run/containers"  # has a directory for each user ID
_MAX_FILE = 4 << 20  # bytes
_NOT_FOUND = "credentials not found"  # what helpers print; the protocol has no other sign
_SCHEME = re.compile("^https?://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user and a password, or an identity token to get tokens with. `origin` says in messages
    where they are from.
    """

    username: str
    password: str = field(repr=False)
    identity_token: str = field(default="", repr=False)
    origin: str


class Helper:
    """The helper program that is being asked, if any."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def end(self) -> None:
        """Kill it, with its children. May be called in another thread than the one that asks."""
        import signal

        process = self.process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def find_credentials(
    domain: str, repository: str, authfile: str | None, helper: Helper | None = None
) -> Credentials | None:
    """Return the credentials for `repository` of the registry `domain`, None if there are none.
    Only the file `authfile` is read if it is given, or else $REGISTRY_AUTH_FILE if that is set.
    `helper` is what may end the helper program. Raises RegistryError for a file that cannot be
    used, and for a helper that fails.
    """
    helper = helper or Helper()
    for path, is_required in _files(authfile):
        document = _read(path, is_required=is_required)
        # .dockercfg has what the others have in "auths".
        is_old = os.path.basename(path) == ".dockercfg"
        auths = {"auths": document} if is_old else document
        found = _find(auths, domain, repository, path, helper)
        if found is not None:
            return found
    return None


def _files(authfile: str | None) -> Iterator[tuple[str, bool]]:
    """Yield the files in which credentials are looked up, in the order of containers/image, each
    with whether it must exist.
    """
    if only := authfile or os.environ.get("REGISTRY_AUTH_FILE"):
        yield only, True
        return
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "containers", "auth.json"), False
    else:  # as for root, most often
        yield os.path.join(RUN, str(os.getuid()), "auth.json"), False
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    yield os.path.join(config, "containers", "auth.json"), False
    docker = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    yield os.path.join(docker, "config.json"), False
    yield os.path.expanduser("~/.dockercfg"), False


def _read(path: str, *, is_required: bool) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if is_required:
            raise RegistryError(path, f"cannot be read: {error.strerror}") from error
        return {}
    except OSError as error:
        if not is_required and not os.access(os.path.dirname(path), os.X_OK):
            return {}  # a directory of somebody else's, as /run/containers is where root has logged in
        raise RegistryError(path, f"cannot be read: {error.strerror}") from error
    if not data.strip():
        return {}
    try:
        document = parse_json(data[:_MAX_FILE])
    except ValueError:
        document = None
    if not isinstance(document, dict):
        # The text of the parser's error would quote what is in the file.
        raise RegistryError(path, "is not a JSON object; log in again, or correct it")
    return document


def _find(
    document: dict[str, Any], domain: str, repository: str, path: str, helper: Helper
) -> Credentials | None:
    """Return the credentials that one file has, or names a helper for."""
    server = _DOCKER_HUB_KEY if domain == _DOCKER_HUB else domain
    helpers = _members(document, "credHelpers")
    for name in (helpers.get(domain) or helpers.get(server), document.get("credsStore")):
        if isinstance(name, str) and name:
            found = _ask(name, server, path, helper)
            if found is not None:
                return found
    entries = _members(document, "auths")
    for key in _keys(domain, repository):
        if isinstance(entry := entries.get(key), dict) and (found := _parse(entry, path)):
            return found
    # Docker writes the registry's URL, in older versions with a path.
    for key, entry in entries.items():
        host = _SCHEME.sub("", key).partition("/")[0]
        is_url = _SCHEME.match(key) is not None
        if is_url and host == domain and isinstance(entry, dict) and (found := _parse(entry, path)):
            return found
    return None


def _members(document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _keys(domain: str, repository: str) -> Iterator[str]:
    """Yield the keys of a repository's credentials: `host/ns/repo`, `host/ns`, `host`."""
    key = f"{domain}/{repository}"
    while key:
        yield key
        key = key.rpartition("/")[0]
    if domain == _DOCKER_HUB:
        yield _DOCKER_HUB_KEY
        yield "index.docker.io"


def _parse(entry: dict[str, Any], path: str) -> Credentials | None:
    """Return the credentials of an entry, None for one without any. Raises RegistryError."""
    user, password, token = (
        value if isinstance(value := entry.get(key), str) else ""
        for key in ("username", "password", "identitytoken")
    )
    if isinstance(encoded := entry.get("auth"), str) and encoded:
        try:
            decoded = base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError):
            raise RegistryError(path, 'an "auth" in it is not Base64; log in again') from None
        user, _, password = decoded.partition(":")
        password = password.rstrip("\0")  # old versions of docker append it
    if not token and not user and not password:
        return None
    return Credentials(username=user, password=password, identity_token=token, origin=path)


def _ask(name: str, server: str, path: str, helper: Helper) -> Credentials | None:
    """Return what the credential helper `name` has for `server`. Raises RegistryError."""
    import shutil

    if not _HELPER.fullmatch(name):
        raise RegistryError(path, f"{one_line(name)!r} is not the name of a credential helper")
    command = f"docker-credential-{name}"
    program = shutil.which(command)
    if program is None:
        raise RegistryError(path, f"names {command} for {server}, which is not installed")
    try:
        status, output = _run(program, server, helper)
    except OSError as error:
        reason = f"{command}, which it names for {server}, fails: {error.strerror}"
        raise RegistryError(path, reason) from error
    if status:
        if _NOT_FOUND in output.decode("utf-8", "replace").lower():
            return None
        reason = f"{command}, which it names for {server}, fails with status {status}"
        raise RegistryError(path, reason)
    try:
        answer = parse_json(output)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, TypeError, KeyError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise RegistryError(path, f"{command}, which it names for {server}, answers with nonsense")
    if not secret:
        return None
    origin = f"{command}, named in {path}"
    if user == _TOKEN_USER:
        return Credentials(username="", password="", identity_token=secret, origin=origin)
    return Credentials(username=user, password=secret, origin=origin)


def _run(program: str, server: str, helper: Helper) -> tuple[int, bytes]:
    """Run a helper for at most _HELPER_TIME, and return its status and output. If it takes longer
    or writes more than _MAX_OUTPUT, it is killed with its children. Raises OSError.
    """
    import select
    import subprocess

    deadline = time.monotonic() + _HELPER_TIME
    with subprocess.Popen(  # noqa: S603 — no shell
        [program, "get"],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        helper.process = process
        assert process.stdin is not None
        assert process.stdout is not None
        output = b""
        try:
            with contextlib.suppress(BrokenPipeError):  # it may know without being asked
                process.stdin.write(server.encode())
            process.stdin.close()
            while len(output) <= _MAX_OUTPUT:
                remaining = max(0.0, deadline - time.monotonic())
                if not select.select([process.stdout], [], [], remaining)[0]:
                    raise TimeoutError(errno.ETIMEDOUT, f"no answer in {_HELPER_TIME:.0f} s")
                piece = process.stdout.read(_MAX_OUTPUT)
                if not piece:
                    return process.wait(max(0.0, deadline - time.monotonic())), output
                output += piece
            raise OSError(errno.EFBIG, f"more than {_MAX_OUTPUT} bytes of output")
        except subprocess.TimeoutExpired:
            raise TimeoutError(errno.ETIMEDOUT, f"no end in {_HELPER_TIME:.0f} s") from None
        finally:
            helper.end()
