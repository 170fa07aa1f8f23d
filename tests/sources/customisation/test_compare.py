"""What changed in a tree, as a layer: applied over the first tree it gives the second."""

import io
import tarfile
import tempfile
from pathlib import Path

from handmade import Base
from hypothesis import given, settings
from hypothesis import strategies as st
from roots import Node as Entry
from roots import flattened, read_root

from stream.model import Recipe
from stream.sources.customisation.compare import Change, SameContent, compare, hidden_paths
from stream.sources.customisation.made import made_layer
from stream.sources.customisation.tree import Node, Tree, directory, file, link
from stream.tarwriter import write_layer
from stream.tools.export import export
from stream.typeflags import BLOCK_DEVICE, FIFO, FILE

NAMES = st.sampled_from([b"a", b"b", b"c"])
MODES = st.sampled_from([0o755, 0o644, 0o4755])
OWNERS = st.sampled_from([0, 7])
CAPABLE = {b"security.capability": b"x"}


def is_same(before: Tree) -> SameContent:
    """Return the comparison of contents that are in memory."""

    def same(path: bytes, node: Node) -> bool:
        old = before.find(path)
        return old is not None and old.data == node.data

    return same


def changed(before: Tree, after: Tree) -> Change:
    """Return the change between two trees in memory."""
    return compare(before, after, is_same(before))


def layer_of(tree: Tree) -> bytes:
    """Return `tree` as the bytes of a layer."""
    source = made_layer(tree, Recipe(), mtime=1)
    with tempfile.TemporaryFile() as output:
        write_layer(output.fileno(), source.size, source.write_to)
        output.seek(0)
        return output.read()


def change_layer(before: Tree, after: Tree) -> bytes:
    """Return the bytes of the layer that changes `before` to `after`."""
    change = changed(before, after)
    change.tree.hidden = hidden_paths(change.removed, before, change.tree)
    return layer_of(change.tree)


def tree_of(**nodes: Node) -> Tree:
    """Return a tree of nodes by name, in which `__` stands for a slash."""
    tree = Tree()
    for name, node in nodes.items():
        tree.put(name.replace("__", "/").encode(), node)
    return tree


def exported(layers: list[bytes]) -> dict[str, Entry]:
    """Return the root file system of an image with `layers`, as `export` gives it."""
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as output:
        archive = Path(place, "image.tar")
        archive.write_bytes(Base(layers=layers).docker_archive())
        export(str(archive), output.fileno())
        output.seek(0)
        return read_root(output.read())


@st.composite
def leaves(draw: st.DrawFn) -> Node:
    """Draw an entry that is not a directory."""
    node = draw(
        st.sampled_from([b"", b"1", b"22"]).map(file)
        | st.sampled_from([b"a", b"/b/c"]).map(link)
        | st.just(BLOCK_DEVICE).map(lambda kind: Node(typeflag=kind, mode=0, device=(7, 1)))
        | st.just(FIFO).map(lambda kind: Node(typeflag=kind, mode=0))
    )
    node.uid = draw(OWNERS)
    if node.typeflag == FILE:
        node.xattrs = draw(st.sampled_from([None, CAPABLE]))
    node.mode = draw(MODES) if node.typeflag != b"2" else 0o777
    return node


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Draw a tree, with hard links in it."""
    tree = Tree()
    tree.root.mode = draw(MODES)
    places = [tree.root]
    for _ in range(draw(st.integers(0, 3))):
        above = places[draw(st.integers(0, len(places) - 1))]
        made = above.children.setdefault(draw(NAMES), directory(draw(MODES)))
        made.gid = draw(OWNERS)
        places.append(made)
    drawn: list[Node] = []
    for _ in range(draw(st.integers(0, 5))):
        place, name = places[draw(st.integers(0, len(places) - 1))], draw(NAMES)
        linked = [node for node in drawn if node.typeflag == FILE]
        if name not in place.children:
            again = bool(linked) and draw(st.booleans())
            place.children[name] = linked[0] if again else draw(leaves())
            drawn.append(place.children[name])
    return tree


@settings(max_examples=50)  # each makes an image
@given(before=trees(), after=trees())
def test_layer_over_the_base_is_the_tree(before: Tree, after: Tree) -> None:
    """Without it an image would differ from the one in which its commands ran."""
    layers = [layer_of(before), change_layer(before, after)]
    wanted = flattened([layer_of(after)])
    assert flattened(layers) == wanted
    assert exported(layers) == wanted


@given(tree=trees())
def test_nothing_changed(tree: Tree) -> None:
    """Without it a layer would repeat the base."""
    change = changed(tree, tree)
    assert ([*change.tree.entries()], change.removed) == ([(b"", change.tree.root)], frozenset())


def test_directories_above_a_change() -> None:
    """Without their entries, consumers would give them other owners."""
    before = tree_of(a__b__c=file(b""), a__d=file(b""))
    after = tree_of(a__b__new=file(b""), a__d=file(b""))
    for tree in before, after:
        tree.make_directory(b"a/b").uid = 5
    change = changed(before, after)
    assert [(path, node.uid) for path, node in change.tree.entries()] == [
        (b"", 0), (b"a", 0), (b"a/b", 5), (b"a/b/new", 0),
    ]  # fmt: skip
    assert change.removed == {b"a/b/c"}


def test_one_name_of_a_file_that_changed() -> None:
    """Without all of its names, they would be two files, one of them with the old content."""
    old, new = file(b"old"), file(b"new")
    change = changed(tree_of(a=old, b=old), tree_of(a=new, b=new, c=new))
    assert [path for path, _ in change.tree.entries()] == [b"", b"a", b"b", b"c"]
    assert b"./c" in layer_of(change.tree)
    kinds = {entry.same for path, entry in flattened([layer_of(change.tree)]).items() if path}
    assert kinds == {("a", "b", "c")}


def test_new_name_for_a_file_of_the_base() -> None:
    """Without the old name in the layer, the two would not be one file."""
    node, other = file(b"x"), file(b"x")
    change = changed(tree_of(a=node), tree_of(a=other, b=other))
    assert [path for path, _ in change.tree.entries()] == [b"", b"a", b"b"]


def test_a_name_that_is_a_file_of_its_own_now() -> None:
    """Without it a change to one would show in the other."""
    node = file(b"x")
    change = changed(tree_of(a=node, b=node), tree_of(a=file(b"x"), b=file(b"x")))
    assert [path for path, _ in change.tree.entries()] == [b"", b"b"]


def test_directory_made_anew() -> None:
    """Without whiteouts of its old entries, these would be there again."""
    before = tree_of(d__old=file(b""), d__e__f=file(b""))
    change = changed(before, tree_of(d__new=file(b"")))
    assert hidden_paths(change.removed, before, change.tree) == {b"d/old", b"d/e"}


def test_what_later_steps_put_at_a_removed_path() -> None:
    """Without it an entry would be hidden by its own layer, or an old one come back."""
    before = tree_of(a=file(b""), d__old=file(b""), d__kept=file(b""), e__f=file(b""))
    removed = {b"a", b"d", b"e"}
    later = tree_of(a=file(b"new"), d__kept=file(b"new"), e=file(b""))
    assert hidden_paths(removed, before, later) == {b"d/old"}
    assert hidden_paths({b"e/f"}, before, later) == frozenset()


def test_mode_of_a_link() -> None:
    """Without it every link would be in the layer: on disk they have no mode."""
    before, after = tree_of(a=link(b"x")), tree_of(a=link(b"x"))
    before.root.children[b"a"].mode = 0o755
    assert len([*changed(before, after).tree.entries()]) == 1


def test_whiteout() -> None:
    """Without it a file of the base that commands removed would be in the image."""
    before = tree_of(d__a=file(b"", 0o600), b=file(b""))
    with tarfile.open(fileobj=io.BytesIO(change_layer(before, Tree()))) as tar:
        assert [(entry.name, entry.size, entry.type) for entry in tar] == [
            (".", 0, tarfile.DIRTYPE), ("./.wh.b", 0, tarfile.REGTYPE),
            ("./.wh.d", 0, tarfile.REGTYPE),
        ]  # fmt: skip
