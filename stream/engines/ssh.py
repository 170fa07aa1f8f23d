"""Programs on another host, run by ssh(1): its configuration, keys and agent apply.

Must not know which programs.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Self
from urllib.parse import urlsplit

from stream.errors import ArgumentError
from stream.values import dataclass

SCHEME = "ssh://"
PROGRAM = "ssh"
_CONNECT_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SshHost:
    """A host as `ssh://[USER@]HOST[:PORT][/PATH]` names it. `path` is empty or begins with `/`."""

    host: str
    user: str | None = None
    port: int | None = None
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parse a URL. Raises ArgumentError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise ArgumentError("host", url, "is not a URL") from None
        if parts.scheme != "ssh" or not parts.hostname or parts.query or parts.fragment:
            raise ArgumentError("host", url, "is not of the form ssh://[USER@]HOST[:PORT]")
        if parts.password is not None:
            shown = url.replace(f":{parts.password}@", ":…@")
            raise ArgumentError("host", shown, "has a password: ssh asks for it")
        # urlsplit lowers the host's name, which may be an alias of ssh's configuration.
        host = parts.netloc.rpartition("@")[2].removesuffix(f":{port}").strip("[]")
        path = parts.path.rstrip("/")
        return cls(host=host, user=parts.username or None, port=port, path=path)

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the command that runs `words` on the host."""
        options = ["-o", f"ConnectTimeout={_CONNECT_SECONDS}", "-T"]
        if self.user is not None:
            options += ["-l", self.user]
        if self.port is not None:
            options += ["-p", str(self.port)]
        return [PROGRAM, *options, "--", self.host, shlex.join(words)]
