"""What the name of a store path says: which package, which version, which of its outputs.

Nix manual, `builtins.parseDrvName`; nixpkgs' `multiple-output`. Must not know stores.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from stream.nix.hashes import STORE_NAME

_STORE_NAME = re.compile(STORE_NAME)
_HASH = 32  # digits before the name
# Up to the first dash that no letter follows.
_DERIVATION = re.compile(r"(?P<name>.*?)-(?P<version>[^a-zA-Z].*)", re.DOTALL)
_OUTPUT = re.compile(
    r"(?P<version>.+)-(?P<output>bin|data|debug|dev|devdoc|dist|doc|info|lib|man|out|static)"
)


class PackageName(NamedTuple):
    """A package as the name of a store path has it. What the name does not say is empty; `digits`
    is the hash that it begins with.
    """

    digits: str
    name: str
    version: str = ""
    output: str = ""


def parse_package_name(store_path: str) -> PackageName:
    """Return what the last component of `store_path` says. A name that Nix would not give has
    no `digits`.
    """
    full = store_path.rpartition("/")[2]
    digits = full[:_HASH] if _STORE_NAME.fullmatch(full) else ""
    name = full[_HASH + 1 :] if digits else full
    derivation = _DERIVATION.fullmatch(name)
    if derivation is None or not derivation["name"]:
        return PackageName(digits, name)
    version, output = derivation["version"], ""
    if found := _OUTPUT.fullmatch(version):
        version, output = found["version"], found["output"]
    return PackageName(digits, derivation["name"], version, output)
