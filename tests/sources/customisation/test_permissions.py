"""Owners and permissions of a tree in memory, rule by rule."""

import pytest

from stream.errors import RecipeError
from stream.model import Permission, Recipe
from stream.schema.capabilities import ATTRIBUTE, capability_data
from stream.sources.base.tree import BaseEntry
from stream.sources.customisation.permissions import apply
from stream.sources.customisation.tree import Node, Tree, directory, file, link
from stream.typeflags import DIRECTORY, FIFO, LINK


def tree_of(**more: Node) -> Tree:
    """Return a tree with a file, a link and a directory in /bin, and more at the root."""
    tree = Tree()
    tree.put(b"bin/tool", file(b"#!", 0o755))
    tree.put(b"bin/link", link(b"/nix/store/x/bin/link"))
    tree.put(b"bin/sub/n\xffn\nl", file(b""))
    for name, node in more.items():
        tree.put(name.encode(), node)
    return tree


def applied(tree: Tree, *rules: Permission, **more: object) -> dict[str, tuple[int, int, int]]:
    """Return mode, user and group by path, after the rules."""
    base = more.pop("base", None)
    apply(tree, Recipe(permissions=rules, **more), base)  # type: ignore[arg-type]
    return {
        path.decode("ascii", "backslashreplace"): (node.mode, node.uid, node.gid)
        for path, node in tree.entries()
    }


def test_owner_then_rules() -> None:
    """A rule overrides the layer's owner, not the other way round."""
    found = applied(
        tree_of(),
        Permission(path=b"/bin/tool", uid=5),
        Permission(path=b"/bin/tool", gid=6, mode=0o4755),
        owner=(1, 2),
    )
    assert found == {
        "": (0o755, 1, 2),
        "bin": (0o755, 1, 2),
        "bin/link": (0o777, 1, 2),
        "bin/sub": (0o755, 1, 2),
        "bin/sub/n\\xffn\nl": (0o644, 1, 2),
        "bin/tool": (0o4755, 5, 6),
    }


def test_later_rules_win() -> None:
    """Only the order in which rules are written is predictable."""
    rules = [Permission(regex="/bin/.*", mode=0o700), Permission(path=b"/bin/tool", mode=0o711)]
    assert applied(tree_of(), *rules)["bin/tool"][0] == 0o711
    assert applied(tree_of(), *reversed(rules))["bin/tool"][0] == 0o700


def test_regex_matches_whole_paths() -> None:
    """A partial match would affect far more paths than those named."""
    found = applied(tree_of(), Permission(regex="/bin", uid=9), Permission(regex="/", gid=9))
    assert {path for path, (_, uid, _) in found.items() if uid} == {"bin"}
    assert {path for path, (_, _, gid) in found.items() if gid} == {""}


def test_regex_matches_any_name() -> None:
    """A file would keep its mode because its name has a newline, or is not UTF-8."""
    found = applied(tree_of(), Permission(regex="/bin/sub/.*", mode=0o600))
    assert found["bin/sub/n\\xffn\nl"][0] == 0o600


def test_a_regex_leaves_the_mode_of_links() -> None:
    """A link's mode has no meaning, so a regex must not make the layer depend on it."""
    found = applied(tree_of(), Permission(regex=".*", mode=0o700, uid=3))
    assert found["bin/link"] == (0o777, 3, 0)
    assert found["bin/sub"] == (0o700, 3, 0)


def test_created() -> None:
    """One rule makes `/tmp` with mode 1777 if nothing else has made it."""
    found = applied(
        tree_of(),
        Permission(path=b"/tmp", create=True, mode=0o1777),
        Permission(path=b"/var/lib/app", create=True, uid=7),
        Permission(path=b"/bin", create=True, mode=0o711),
        Permission(path=b"/", create=True, mode=0o751),
        owner=(1, 2),
    )
    assert found["tmp"] == (0o1777, 1, 2)
    assert found["var"] == found["var/lib"] == (0o755, 1, 2)
    assert found["var/lib/app"] == (0o755, 7, 2)
    assert found["bin"] == (0o711, 1, 2)
    assert found[""] == (0o751, 1, 2)


def test_created_above_a_base() -> None:
    """A directory made in the base's /var must not change who can write there."""
    base = {
        b"var": BaseEntry(DIRECTORY, 0o775, 3, 4),
        b"var/run": BaseEntry(LINK, link=b"/run"),
        b"run": BaseEntry(DIRECTORY, 0o711, 5, 6, xattrs={b"user.x": b"y"}),
    }
    tree = tree_of()
    found = applied(
        tree,
        Permission(path=b"/var/run/app", create=True, mode=0o700),
        Permission(path=b"/var/cache", create=True),
        Permission(path=b"/var/run", create=True, gid=8),
        Permission(path=b"/run/app", uid=9),
        base=base,
    )
    assert found["var"] == (0o775, 3, 4)
    assert found["run"] == (0o711, 5, 8)
    assert found["run/app"] == (0o700, 9, 0)
    assert found["var/cache"] == (0o755, 0, 0)
    assert "var/run" not in found
    run = tree.find(b"run")
    assert run is not None
    assert run.xattrs == {b"user.x": b"y"}


def test_attributes() -> None:
    """Attributes add up; capabilities are one of them."""
    tree = tree_of()
    applied(
        tree,
        Permission(path=b"/bin/tool", xattrs=((b"user.a", b"1"), (b"user.b", b"1"))),
        Permission(path=b"/bin/tool", xattrs=((b"user.b", b"2"),), capabilities="cap_kill=ep"),
        Permission(path=b"/bin", xattrs=((b"user.c", b"3"),)),
        Permission(path=b"/bin/link", xattrs=((b"security.x", b"4"),)),
    )
    found = {path: node.xattrs for path, node in tree.entries() if node.xattrs}
    assert found == {
        b"bin": {b"user.c": b"3"},
        b"bin/link": {b"security.x": b"4"},
        b"bin/tool": {
            b"user.a": b"1",
            b"user.b": b"2",
            ATTRIBUTE: capability_data("cap_kill=ep"),
        },
    }


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            Permission(path=b"/bin/tol", mode=0o755),
            "/bin/tol: no such path in the customisation layer",
        ),
        (
            Permission(path=b"/bin/link/x", uid=1),
            "no such path in the customisation layer: /bin/link is a link to /nix/store/x/bin/link",
        ),
        (Permission(path=b"/bin/tool/x", uid=1), "customisation layer: /bin/tool is a file"),
        (Permission(regex="/bin/t.l", uid=1), "/bin/t.l: this regex does not match any path"),
        (
            Permission(path=b"/bin/link", mode=0o755),
            "/bin/link: links have no mode, and this is a link to /nix/store/x/bin/link",
        ),
        (
            Permission(path=b"/bin/tool", create=True),
            "/bin/tool: cannot be made a directory: /bin/tool is a file",
        ),
        (
            Permission(path=b"/bin/link/a/b", create=True),
            "/bin/link/a/b: cannot be made a directory: /bin/link is a link to /nix/store/x",
        ),
        (
            Permission(regex="/bin/.*", capabilities="cap_kill=ep"),
            "/bin/link: only files have capabilities: /bin/link is a link to",
        ),
        (
            Permission(path=b"/bin", capabilities="cap_kill=ep"),
            "/bin: only files have capabilities: /bin is a directory",
        ),
        (
            Permission(path=b"/bin/link", xattrs=((b"user.x", b""),)),
            "/bin/link: only files and directories have user attributes: /bin/link is a link to",
        ),
        (
            Permission(path=b"/pipe", xattrs=((b"user.x", b""),)),
            "/pipe: only files and directories have user attributes: /pipe is a FIFO",
        ),
        (Permission(path=b"/bin/tool", capabilities="x=p"), "/bin/tool: capabilities: 'x' is no"),
    ],
)
def test_rules_that_cannot_be_applied(rule: Permission, said: str) -> None:
    """A rule without effect is a typo that would go unnoticed."""
    with pytest.raises(RecipeError) as caught:
        applied(tree_of(pipe=Node(typeflag=FIFO, mode=0o600), empty=directory()), rule)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
