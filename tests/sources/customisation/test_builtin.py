"""The built-in contents."""

import os
from typing import Any

import pytest

from stream.errors import RecipeError
from stream.model import Builtin
from stream.nix.store_root import Disk
from stream.sources.customisation.builtin import SHADOW_PATHS, nodes
from stream.typeflags import LINK

PASSWD_LINE = "app:x:1000:1000:App:/home/app:/bin/sh"


def made(builtin: Builtin) -> dict[str, bytes]:
    """Return link targets and file contents by path."""
    return {
        path.decode(): node.link if node.typeflag == LINK else node.data or b""
        for path, node in nodes(builtin, Disk())
    }


@pytest.fixture
def package(store_dir: bytes) -> bytes:
    """Make a package that has all link targets."""
    for name in (b"bin/sh", b"bin/bash", b"bin/env", b"etc/ssl/certs/ca-bundle.crt"):
        os.makedirs(os.path.dirname(store_dir + b"/" + name), exist_ok=True)
        with open(store_dir + b"/" + name, "wb"):
            pass
    return store_dir


def test_fake_nss() -> None:
    """Servers look up root and nobody, and names in /etc/hosts first."""
    assert made(Builtin(name="fakeNss")) == {
        "etc/passwd": b"root:x:0:0:root user:/var/empty:/bin/sh\n"
        b"nobody:x:65534:65534:nobody:/var/empty:/bin/sh\n",
        "etc/group": b"root:x:0:\nnobody:x:65534:\n",
        "etc/nsswitch.conf": b"hosts: files dns\n",
        "var/empty": b"",
    }
    modes = {
        path: (node.mode, node.is_directory)
        for path, node in nodes(Builtin(name="fakeNss"), Disk())
    }
    assert modes[b"etc/passwd"] == (0o644, False)
    assert modes[b"var/empty"] == (0o755, True)


@pytest.mark.parametrize("name", ["fakeNss", "shadowSetup"])
def test_extra_lines_stand_between_root_and_nobody(name: str) -> None:
    """The extra users are there, in their order."""
    lines = (PASSWD_LINE, "é:x:1001:1001::/:")
    files = made(
        Builtin(name=name, extra_passwd_lines=lines, extra_group_lines=("app:x:1000:a,b",))
    )
    passwd = files["etc/passwd"].decode().splitlines()
    assert passwd[0].startswith("root:x:0:0:")
    assert tuple(passwd[1:3]) == lines
    assert all(line.startswith("nobody:") for line in passwd[3:])
    assert files["etc/group"].decode().splitlines()[1] == "app:x:1000:a,b"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ({"extra_passwd_lines": (PASSWD_LINE + "\n",)}, "must be a single line"),
        ({"extra_passwd_lines": (PASSWD_LINE + "\0",)}, "must be a single line"),
        ({"extra_passwd_lines": ("app:x:1000",)}, "'app:x:1000' has 3 fields instead of 7"),
        ({"extra_group_lines": (PASSWD_LINE,)}, "has 7 fields instead of 4"),
        ({"extra_group_lines": ("",)}, "has 1 fields instead of 4"),
    ],
)
@pytest.mark.parametrize("name", ["fakeNss", "shadowSetup"])
def test_malformed_lines(name: str, lines: dict[str, Any], reason: str) -> None:
    """A second line would be an unnoticed user."""
    with pytest.raises(RecipeError, match=f"^{name}: .*{reason}$"):
        nodes(Builtin(name=name, **lines), Disk())


def test_bin_sh(package: bytes) -> None:
    """/bin/sh is bash if the package has it, else any shell of the package."""
    assert made(Builtin(name="binSh", path=package)) == {"bin/sh": package + b"/bin/bash"}
    os.unlink(package + b"/bin/bash")
    assert made(Builtin(name="binSh", path=package)) == {"bin/sh": package + b"/bin/sh"}


def test_usr_bin_env(package: bytes) -> None:
    """Scripts begin with `#!/usr/bin/env`."""
    assert made(Builtin(name="usrBinEnv", path=package)) == {"usr/bin/env": package + b"/bin/env"}


def test_ca_certificates(package: bytes) -> None:
    """The programs of each distribution look for certificates at another path."""
    bundle = package + b"/etc/ssl/certs/ca-bundle.crt"
    for path in (package, bundle):
        assert made(Builtin(name="caCertificates", path=path)) == {
            "etc/ssl/certs/ca-bundle.crt": bundle,
            "etc/ssl/certs/ca-certificates.crt": bundle,
            "etc/pki/tls/certs/ca-bundle.crt": bundle,
        }


@pytest.mark.parametrize(
    ("name", "path"),
    [("binSh", "bin/sh"), ("usrBinEnv", "usr/bin/env"), ("shadowSetup", "etc/passwd")],
)
def test_a_path_can_be_the_program(package: bytes, name: str, path: str) -> None:
    """A single static program need not be in a package."""
    assert package + b"/bin/env" in made(Builtin(name=name, path=package + b"/bin/env"))[path]


def test_shadow_setup(package: bytes) -> None:
    """User management programs find all their files; only root can read the passwords."""
    builtin = Builtin(name="shadowSetup")
    files = made(builtin)
    assert files["etc/passwd"] == b"root:x:0:0::/root:/bin/sh\n"
    assert files["etc/shadow"] == b"root:!x:::::::\n"
    assert files["etc/group"] == b"root:x:0:\n"
    assert files["etc/gshadow"] == b"root:x::\n"
    assert [line.split()[0] for line in files["etc/pam.d/other"].splitlines()] == [
        b"account", b"auth", b"password", b"session",
    ]  # fmt: skip
    assert files["etc/login.defs"] == b""
    assert {path.encode() for path in files} == SHADOW_PATHS
    secret = {path for path, node in nodes(builtin, Disk()) if node.mode == 0o600}
    assert secret == {b"etc/shadow", b"etc/gshadow"}
    shell = made(Builtin(name="shadowSetup", path=package))["etc/passwd"]
    assert shell == b"root:x:0:0::/root:" + package + b"/bin/bash\n"


@pytest.mark.parametrize("name", ["binSh", "usrBinEnv", "caCertificates"])
def test_wrong_paths(package: bytes, name: str) -> None:
    """A dangling link would only be noticed when a container does not start."""
    for path, reason in (
        (b"", "needs a path; give that of a package with "),
        (b"relative", "relative is not an absolute path"),
        (package + b"/none", "/none does not exist, or cannot be read"),
        (package + b"/bin", "/bin has no "),
    ):
        with pytest.raises(RecipeError, match=f"^{name}: .*{reason}"):
            nodes(Builtin(name=name, path=path), Disk())


def test_an_unknown_name() -> None:
    """A misspelt name gives an error that lists the valid names."""
    with pytest.raises(RecipeError, match="fakeNSS: not built in; use one of fakeNss, binSh"):
        nodes(Builtin(name="fakeNSS"), Disk())
