"""The Nix database that is put into an image, judged by a real Nix.

Nix works on a store in a temporary directory; nothing outside it is read or written.
"""

import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from stream import typeflags
from stream.model import NixDatabase, StoreObject
from stream.nix.store_root import Disk
from stream.sources.base.database import BaseDatabase
from stream.sources.customisation.database import add_database
from stream.sources.customisation.tree import Tree

from .requirements import require

pytestmark = pytest.mark.consumers

_SETTINGS: Final = (
    "sandbox = false\nsubstituters =\nbuild-users-group =\nexperimental-features = nix-command "
)
# A library, a program that refers to it and to itself, and an output that only the build needs.
_EXPRESSION: Final = """
let
  make = name: script: derivation {
    inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ];
    outputs = [ "out" "dev" ]; PATH = "/usr/bin:/bin";
  };
  library = make "library" "echo library > $out; echo $out > $dev";
in make "program" "mkdir $out; echo ${library} > $out/needs; echo $out > $out/self; echo > $dev"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Nix:
    """Nix with a store, and one of possibly several state directories."""

    home: Path
    state: Path
    features: str = ""

    @property
    def store(self) -> Path:
        """The store directory."""
        return self.home / "store"

    def __call__(self, *argv: str, stdin: str = "") -> str:
        """Return the output of a command, which must succeed."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "NIX_CONFIG": _SETTINGS + self.features,
            "NIX_STORE_DIR": str(self.store),
            "NIX_STATE_DIR": str(self.state),
            "NIX_LOG_DIR": str(self.home / "log"),
            "NIX_CONF_DIR": str(self.home / "etc"),
        }
        ran = subprocess.run(
            argv, check=False, capture_output=True, text=True, input=stdin, env=environment
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def with_state(self, state: Path) -> "_Nix":
        """Return the same store with another database."""
        return replace(self, state=state)

    def registration(self, *paths: str) -> str:
        """Return the closure of paths in the format of `nix-store --dump-db`: path, hash, size, deriver,
        the number of references and the references.
        """
        closure = self("nix-store", "--query", "--requisites", *paths).split()
        return self("nix-store", "--dump-db", *closure)

    def objects(self, *paths: str) -> tuple[StoreObject, ...]:
        """Return the same as objects."""
        lines = iter(self.registration(*paths).splitlines())
        return tuple(
            StoreObject(
                path=path,
                nar_hash=f"sha256:{next(lines)}",
                nar_size=int(next(lines)),
                deriver=next(lines),
                references=tuple(next(lines) for _ in range(int(next(lines)))),
            )
            for path in lines
        )


@pytest.fixture
def nix(tmp_path: Path) -> _Nix:
    """Return a Nix with an empty store."""
    require(["nix", "nix-store", "nix-build", "nix-instantiate"])
    # Nothing outside the store's directory belongs to Nix.
    return _Nix(home=tmp_path, state=tmp_path / "var")


@pytest.fixture
def program(nix: _Nix) -> str:
    """Build a store path that refers to itself and to another one."""
    expression = nix.home / "program.nix"
    expression.write_text(_EXPRESSION)
    return nix("nix-build", "--no-out-link", str(expression)).strip()


def _image(nix: _Nix, objects: Sequence[StoreObject], roots: Sequence[str], **more: Any) -> Tree:
    """Return a tree with their database."""
    tree = Tree()
    database = NixDatabase(objects=tuple(objects), roots=tuple(roots))
    add_database(tree, database, disk=Disk(str(nix.store).encode()), **more)
    return tree


def _laid_out(tree: Tree, directory: Path) -> Path:
    """Return Nix with the state directory of `tree` and the store in `directory`, as in a container."""
    for path, node in tree.entries():
        place = directory / os.fsdecode(path)
        if node.typeflag == typeflags.DIRECTORY:
            place.mkdir(exist_ok=True)
            place.chmod(node.mode)
            continue
        place.unlink(missing_ok=True)
        if node.typeflag == typeflags.LINK:
            place.symlink_to(os.fsdecode(node.link))
        else:
            assert node.data is not None
            place.write_bytes(node.data)
            place.chmod(node.mode)
    return directory / "nix/var/nix"


def _dump(path: Path) -> list[str]:
    """Return the schema as SQL without whitespace, comments and times."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE ValidPaths SET registrationTime = 0")
        lines = list(connection.iterdump())
    bare = (re.sub(r"\s+", " ", re.sub(r"--.*", "", line)) for line in lines)
    return sorted(re.sub(r" ?([(),;]) ?", r"\1", line) for line in bare)


def test_equal_to_what_nix_writes(nix: _Nix, program: str) -> None:
    """Built outputs, sources and derivations, with all tables, indexes and triggers: anything missing
    could make some command fail.
    """
    derivation = nix("nix-store", "--query", "--deriver", program).strip()
    (nix.home / "source").write_text("a source")
    source = nix("nix-store", "--add", str(nix.home / "source")).strip()
    objects = nix.objects(program, derivation, source)
    assert {derivation, source} < {item.path for item in objects}
    loaded = nix.with_state(nix.home / "loaded")
    registration = nix.registration(program, derivation, source)
    loaded("nix-store", "--load-db", stdin=registration)
    state = _laid_out(_image(nix, objects, [program]), nix.home / "image")
    assert _dump(state / "db/db.sqlite") == _dump(loaded.state / "db/db.sqlite")
    theirs = loaded.state / "db"
    for name in ("schema", "db.sqlite"):
        ours = state / "db" / name
        assert ours.stat().st_mode == (theirs / name).stat().st_mode
    assert (state / "db/schema").read_bytes() == (theirs / "schema").read_bytes()
    assert (loaded.state / "gcroots/profiles").is_symlink()
    assert (state / "gcroots/profiles").is_symlink()


def test_nix_answers_from_it(nix: _Nix, program: str, tmp_path: Path) -> None:
    """The commands run by dockerTools' own tests in a container, and the collector."""
    (nix.home / "source").write_text("not needed")
    source = nix("nix-store", "--add", str(nix.home / "source")).strip()
    objects = nix.objects(program, source)
    state = _laid_out(_image(nix, objects, [program]), tmp_path / "image")
    there = nix.with_state(state)
    there("nix-store", "--verify", "--check-contents")
    for query in ("-qR", "--references", "--referrers", "--deriver", "--size", "--hash"):
        asked = ("nix-store", "--query", query, program) if query != "-qR" else (
            "nix-store", "-qR", program)  # fmt: skip
        assert sorted(there(*asked).split()) == sorted(nix(*asked).split())
    root = state / "gcroots/docker" / Path(program).name
    assert f"{root} -> {program}" in there("nix-store", "--gc", "--print-roots")
    closure = set(nix("nix-store", "-qR", program).split())
    assert set(there("nix-store", "--gc", "--print-live").split()) == closure
    assert source in there("nix-store", "--gc", "--print-dead").split()
    # A path that refers to itself is collected as well once it has no root.
    root.unlink()
    there("nix-store", "--delete", program)
    assert not Path(program).exists()
    there("nix-store", "--add", str(nix.home / "source"))


def test_nix_goes_on_with_a_merged_one(nix: _Nix, program: str, tmp_path: Path) -> None:
    """The base's database is Nix's own, in WAL mode and with tables for realisations; after the merge
    Nix knows both images' paths, builds, and recreates these tables.
    """
    base_objects = nix.objects(program)
    (nix.home / "source").write_text("ours")
    source = nix("nix-store", "--add", str(nix.home / "source")).strip()
    loaded = replace(nix.with_state(nix.home / "loaded"), features="ca-derivations")
    loaded("nix-store", "--load-db", stdin=nix.registration(program))
    data = (loaded.state / "db/db.sqlite").read_bytes()
    assert data[18:20] == b"\2\2"
    assert (loaded.state / "db/ca-schema").exists()
    base = BaseDatabase(name="base", data=data, has_realisations=True)
    tree = _image(nix, nix.objects(source), [source, program], base=base)
    shutil.copytree(loaded.state, tmp_path / "image/nix/var/nix", symlinks=True)
    there = loaded.with_state(_laid_out(tree, tmp_path / "image"))
    there("nix-store", "--verify", "--check-contents")
    assert set(there("nix-store", "-qR", program, source).split()) == {
        item.path for item in base_objects
    } | {source}
    there("nix", "realisation", "info", program)


def test_paths_of_the_usual_store(nix: _Nix, tmp_path: Path) -> None:
    """Below another root, as an installer or a boot loader sees an image."""
    (tmp_path / "source").write_text("a source")
    theirs, ours = (f"local?root={tmp_path / name}" for name in ("theirs", "ours"))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NIX_CONFIG": _SETTINGS}

    def run(remote: str, *argv: str) -> str:
        return subprocess.run(
            argv, check=True, stdout=subprocess.PIPE, text=True,
            env={**environment, "NIX_REMOTE": remote},
        ).stdout  # fmt: skip

    path = run(theirs, "nix-store", "--add", str(tmp_path / "source")).strip()
    digest = run(theirs, "nix-store", "--query", "--hash", path).strip()
    item = StoreObject(
        path=path,
        nar_hash="sha256:" + nix("nix", "hash", "to-base16", digest).strip(),
        nar_size=int(run(theirs, "nix-store", "--query", "--size", path)),
        references=(),
    )
    tree = Tree()
    add_database(tree, NixDatabase(objects=(item,), roots=(path,)), disk=Disk(b"/nix/store"))
    _laid_out(tree, tmp_path / "ours")
    (tmp_path / "ours/nix/store").mkdir()
    (tmp_path / "theirs" / path[1:]).rename(tmp_path / "ours" / path[1:])
    run(ours, "nix-store", "--verify", "--check-contents")
    assert run(ours, "nix-store", "--gc", "--print-live").split() == [path]
