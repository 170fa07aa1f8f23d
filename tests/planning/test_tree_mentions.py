"""Store paths mentioned in a tree."""

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.errors import SourceError
from stream.nix.hashes import MAX_STORE_NAME, STORE_NAME
from stream.planning import mentions
from stream.sources.customisation.content import PIECE
from stream.sources.customisation.tree import Identity, Node, Tree, file, link
from stream.typeflags import FILE

STORE = b"/nix/store"
DIGITS = b"0123456789abcdfghijklmnpqrsvwxyz"
HASH = b"0123456789abcdfghijklmnpqrsvwxyz"
PATH = STORE + b"/" + HASH + b"-hello-2.12"


def _references(**nodes: Node) -> set[bytes]:
    tree = Tree()
    for name, node in nodes.items():
        tree.put(b"etc/" + name.encode(), node)
    return mentions.find_in_tree(tree, STORE)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (PATH, PATH),
        (PATH + b"/bin/hello", PATH),
        (b"/nix//store/./x/../named/file", STORE + b"/named"),
        (b"../nix/store/named", STORE + b"/named"),
        (STORE + b"/named", STORE + b"/named"),
        (STORE, None),
        (STORE + b"/", None),
        (b"/nix/storeroom/x", None),
        (b"relative", None),
    ],
)
def test_links(target: bytes, found: bytes | None) -> None:
    """Without it, the target of a link would not be in the image."""
    assert _references(a=link(target)) == ({found} if found else set())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"#!" + PATH + b"/bin/sh\n", True),
        (b"\0" + PATH + b"\0", True),
        (b"x" + PATH, True),
        (STORE + b"/" + HASH + b"-", False),
        (STORE + b"/" + HASH.replace(b"z", b"e") + b"-hello-2.12", False),
        (STORE + b"/" + HASH[1:] + b"-hello-2.12", False),
        (b"/other/store/" + HASH + b"-hello-2.12", False),
    ],
)
def test_files(content: bytes, *, found: bool) -> None:
    """Without it, a script's interpreter would not be in the image, or any text would count."""
    assert _references(a=file(content)) == ({PATH} if found else set())


def test_several() -> None:
    """Without it, the first path would hide the others."""
    other = STORE + b"/" + HASH[::-1] + b"-x"
    assert _references(a=file(PATH + b":" + other), b=link(b"/nix/store/y")) == {
        PATH, other, b"/nix/store/y",
    }  # fmt: skip


@given(seed=st.integers(0, 2**32), piece=st.integers(1, 700))
def test_pieces(seed: int, piece: int) -> None:
    """Without it, a path that spans two reads would be missed or cut."""
    chance = random.Random(seed)
    content = b"".join(
        chance.choice(
            (
                STORE + b"/" + bytes(chance.choices(DIGITS, k=32)) + b"-" + b"n" * chance.randrange(220),
                chance.randbytes(chance.randrange(300)),
                STORE + b"/",
            )
        )
        for _ in range(8)
    )  # fmt: skip
    pattern = re.compile(re.escape(STORE) + b"/" + STORE_NAME.encode())
    pieces = (content[at : at + piece] for at in range(0, len(content), piece))
    overlap = len(STORE) + 1 + MAX_STORE_NAME
    assert list(mentions._matches(pieces, pattern, overlap)) == pattern.findall(content)


def test_large_file(tmp_path: Path) -> None:
    """Without it, only files that fit into memory could be searched."""
    path = tmp_path / "large"
    at = PIECE - 20
    with path.open("wb") as output:
        output.seek(at)
        output.write(PATH)
        output.truncate(3 * PIECE)
    facts = path.stat()
    identity = Identity.of(facts)
    node = Node(
        typeflag=FILE, mode=0o644, size=facts.st_size, source=bytes(path), identity=identity
    )
    assert _references(a=node) == {PATH}
    path.unlink()
    with pytest.raises(SourceError, match="no such file"):
        _references(a=node)
