"""The names of store paths, as Nix and nixpkgs make them."""

import pytest

from stream.nix.names import PackageName, parse_package_name

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"


@pytest.mark.parametrize(
    ("name", "package", "version", "output"),
    [
        ("hello-2.12.1", "hello", "2.12.1", ""),
        ("glibc-2.38-66", "glibc", "2.38-66", ""),
        ("glibc-2.38-66-dev", "glibc", "2.38-66", "dev"),
        ("bash-interactive-5.2p26-man", "bash-interactive", "5.2p26", "man"),
        ("python3.11-requests-2.31.0", "python3.11-requests", "2.31.0", ""),
        ("libxml2-2-style", "libxml2", "2-style", ""),
        ("gtk+3", "gtk+3", "", ""),
        ("source", "source", "", ""),
        ("-1.0", "-1.0", "", ""),
        ("tool-lib", "tool-lib", "", ""),
    ],
)
def test_parts_of_a_name(name: str, package: str, version: str, output: str) -> None:
    """A scanner looks for the package and the version: a wrong cut finds nothing, or another's."""
    parsed = parse_package_name(f"/nix/store/{DIGITS}-{name}")
    assert parsed == PackageName(DIGITS, package, version, output)


def test_names_without_a_hash() -> None:
    """A path of a store made by hand would be given out as a package of Nix."""
    assert parse_package_name("/store/tool-1") == PackageName("", "tool", "1", "")
