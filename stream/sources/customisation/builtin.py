"""The built-in contents: those of nixpkgs' `dockerTools`, under the same names.

Knows which files each of them has; not what else is in the image.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from stream.errors import RecipeError
from stream.model import Builtin
from stream.nix.store_root import Disk
from stream.sources.customisation.tree import Node, directory, file, link
from stream.text import printable

SHADOW_SETUP = "shadowSetup"

# The files of shadowSetup, each added only if no other content has it.
SHADOW_PATHS = frozenset(
    {
        b"etc/group", b"etc/gshadow", b"etc/login.defs", b"etc/pam.d/other", b"etc/passwd",
        b"etc/shadow",
    }
)  # fmt: skip

SECRET_MODE = 0o600  # of files with passwords

Nodes = list[tuple[bytes, Node]]


def nodes(builtin: Builtin, disk: Disk) -> Nodes:
    """Return the nodes of `builtin` with their paths; its link targets are on `disk`. Raises
    RecipeError for an unknown name, a path that lacks the link target, and malformed lines.
    """
    make = _BUILTINS.get(builtin.name)
    if make is None:
        raise RecipeError(builtin.name, f"not built in; use one of {', '.join(_BUILTINS)}")
    made = make(builtin, disk)
    for _, node in made:
        node.origin = builtin.name.encode()
    return made


def _fake_nss(builtin: Builtin, _: Disk) -> Nodes:
    return [
        (b"etc/passwd", file(_passwd(builtin, "root:x:0:0:root user:/var/empty:/bin/sh",
                                     "nobody:x:65534:65534:nobody:/var/empty:/bin/sh"))),
        (b"etc/group", file(_group(builtin, "root:x:0:", "nobody:x:65534:"))),
        (b"etc/nsswitch.conf", file(b"hosts: files dns\n")),
        (b"var/empty", directory()),
    ]  # fmt: skip


def _bin_sh(builtin: Builtin, disk: Disk) -> Nodes:
    return [(b"bin/sh", link(_find_file(builtin, disk, b"bin/bash", b"bin/sh")))]


def _usr_bin_env(builtin: Builtin, disk: Disk) -> Nodes:
    return [(b"usr/bin/env", link(_find_file(builtin, disk, b"bin/env")))]


def _ca_certificates(builtin: Builtin, disk: Disk) -> Nodes:
    bundle = _find_file(builtin, disk, b"etc/ssl/certs/ca-bundle.crt")
    return [
        (b"etc/ssl/certs/ca-bundle.crt", link(bundle)),
        (b"etc/ssl/certs/ca-certificates.crt", link(bundle)),  # Debian, Arch, Gentoo
        (b"etc/pki/tls/certs/ca-bundle.crt", link(bundle)),  # Fedora
    ]


def _shadow_setup(builtin: Builtin, disk: Disk) -> Nodes:
    shell = _find_file(builtin, disk, b"bin/bash", b"bin/sh") if builtin.path else b"/bin/sh"
    root = f"root:x:0:0::/root:{shell.decode('utf-8', 'surrogateescape')}"
    return [
        (b"etc/passwd", file(_passwd(builtin, root))),
        (b"etc/shadow", file(b"root:!x:::::::\n", SECRET_MODE)),
        (b"etc/group", file(_group(builtin, "root:x:0:"))),
        (b"etc/gshadow", file(b"root:x::\n", SECRET_MODE)),
        (
            b"etc/pam.d/other",
            file(
                b"account sufficient pam_unix.so\n"
                b"auth sufficient pam_rootok.so\n"
                b"password requisite pam_unix.so nullok yescrypt\n"
                b"session required pam_unix.so\n"
            ),
        ),
        (b"etc/login.defs", file(b"")),
    ]


_BUILTINS: dict[str, Callable[[Builtin, Disk], Nodes]] = {
    "fakeNss": _fake_nss,
    "binSh": _bin_sh,
    "usrBinEnv": _usr_bin_env,
    "caCertificates": _ca_certificates,
    SHADOW_SETUP: _shadow_setup,
}


def _find_file(builtin: Builtin, disk: Disk, *names: bytes) -> bytes:
    """Return the first of `names` that is a file in the builtin's path, or that path itself
    if it is a file.
    """
    path = builtin.path
    wanted = " or ".join(map(printable, names))
    if not path:
        raise RecipeError(builtin.name, f"needs a path; give that of a package with {wanted}")
    if not path.startswith(b"/"):
        raise RecipeError(builtin.name, f"{printable(path)} is not an absolute path")
    for candidate in (path, *(os.path.join(path, name) for name in names)):
        if disk.is_file(candidate):
            return candidate
    raise RecipeError(
        builtin.name,
        f"{printable(path)} has no {wanted}" if disk.is_directory(path)
        else f"{printable(path)} does not exist, or cannot be read",
    )  # fmt: skip


def _passwd(builtin: Builtin, first: str, last: str = "") -> bytes:
    """Return a passwd(5) file: the two lines with the extra ones between them."""
    return _lines(builtin, first, builtin.extra_passwd_lines, last, fields=7)


def _group(builtin: Builtin, first: str, last: str = "") -> bytes:
    """Return a group(5) file: the two lines with the extra ones between them."""
    return _lines(builtin, first, builtin.extra_group_lines, last, fields=4)


def _lines(
    builtin: Builtin, first: str, extra: tuple[str, ...], last: str, *, fields: int
) -> bytes:
    for line in extra:
        if "\n" in line or "\0" in line:
            raise RecipeError(builtin.name, f"{line!r} must be a single line")
        if line.count(":") != fields - 1:
            raise RecipeError(
                builtin.name, f"{line!r} has {line.count(':') + 1} fields instead of {fields}"
            )
    text = "".join(f"{line}\n" for line in (first, *extra, last) if line)
    return text.encode("utf-8", "surrogateescape")
