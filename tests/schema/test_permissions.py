"""Owner and permissions in JSON: their values, and every fault with its place."""

from typing import Any

import pytest

from stream.model import Permission
from stream.schema.permissions import read_directories, read_owner, read_permissions

Faults = list[tuple[str, str]]


def read(function: Any, value: object) -> tuple[Any, Faults]:
    """Return the result of a function, and the faults."""
    faults: Faults = []
    return function(value, "at", lambda place, message: faults.append((place, message))), faults


def test_permissions() -> None:
    """A lost key would be a missing or an excess right."""
    value = [
        {"path": "/srv/häuser", "mode": "2750", "uid": 4294967294, "gid": "7"},
        {"regex": "/bin/.*", "mode": "755"},
        {"path": "/tmp", "mode": "01777", "create": True},
        {"path": "/run/x", "create": True, "mode": None},
        {"path": "/bin/ping", "capabilities": "cap_net_raw=ep"},
        {"path": "/a", "xattrs": {"user.x": "té", "user.bin": {"base64": "AP8="}}},
    ]
    found, faults = read(read_permissions, value)
    assert not faults
    assert found == (
        Permission(path="/srv/häuser".encode(), mode=0o2750, uid=2**32 - 2, gid=7),
        Permission(regex="/bin/.*", mode=0o755),
        Permission(path=b"/tmp", mode=0o1777, create=True),
        Permission(path=b"/run/x", create=True),
        Permission(path=b"/bin/ping", capabilities="cap_net_raw=ep"),
        Permission(path=b"/a", xattrs=((b"user.x", "té".encode()), (b"user.bin", b"\x00\xff"))),
    )


def test_directories() -> None:
    """A directory is created whether given by its mode alone or as an object."""
    value = {"/tmp": "1777", "/home/app": {"mode": "0700", "uid": 1000, "gid": 1000}, "/srv": {}}
    found, faults = read(read_directories, value)
    assert not faults
    assert found == (
        Permission(path=b"/tmp", create=True, mode=0o1777),
        Permission(path=b"/home/app", create=True, mode=0o700, uid=1000, gid=1000),
        Permission(path=b"/srv", create=True),
    )


def test_owner() -> None:
    """The owner of a layer is the user and the group, in this order."""
    assert read(read_owner, {"gid": 2, "uid": "1"}) == ((1, 2), [])


def test_absence() -> None:
    """Nix writes null for arguments that are not given."""
    assert read(read_owner, None) == (None, [])
    assert read(read_directories, None) == ((), [])
    assert read(read_permissions, None) == ((), [])


RULE = {"path": "/x", "mode": "0755"}


@pytest.mark.parametrize(
    ("function", "value", "place", "message"),
    [
        (
            read_owner,
            "app",
            "at",
            'must be an object like {"uid": 1000, "gid": 1000}, not a string',
        ),
        (read_owner, {"uid": 1}, "at.gid", "is missing"),
        (
            read_owner,
            {"uid": -1, "gid": 0},
            "at.uid",
            "must be a number from 0 to 4294967294, not -1",
        ),
        (
            read_owner,
            {"uid": 0, "gid": 0, "uidd": 0},
            "at.uidd",
            'unknown key (did you mean "uid"?)',
        ),
        (read_directories, ["/tmp"], "at", 'must be an object like {"/tmp": "1777"}, not a list'),
        (read_directories, {"tmp": "1777"}, 'at["tmp"]', "'tmp' is not an absolute path"),
        (
            read_directories,
            {"/" + "é" * 128: "1777"},
            f'at["/{"é" * 128}"]',
            "has a component of 256 bytes; at most 255 are allowed",
        ),
        (read_directories, {"/tmp/": "1777"}, 'at["/tmp/"]', "'/tmp/' is not in normal form"),
        (
            read_directories,
            {"/a/.wh.b/c": "1777"},
            'at["/a/.wh.b/c"]',
            "'/a/.wh.b/c' has a component that begins with .wh., which marks a deleted file",
        ),
        (read_permissions, [RULE | {"path": "/.wh.x"}], "at[0].path", "begins with .wh."),
        (
            read_directories,
            {"/\ud800": "1777"},
            'at["/\ud800"]',
            "contains an unpaired UTF-16 surrogate",
        ),
        (
            read_directories,
            {"/a/" * 3000: "1777"},
            f'at["{"/a/" * 3000}"]',
            "is not in normal form",
        ),
        (read_directories, {"/a" * 3000: "1777"}, f'at["{"/a" * 3000}"]', "has 6000 bytes"),
        (read_directories, {"/t": 1777}, 'at["/t"]', 'in a string, like "0755"; a JSON number is'),
        (read_directories, {"/t": {"mode": 1777}}, 'at["/t"].mode', "a JSON number is decimal"),
        (read_directories, {"/t": {"create": True}}, 'at["/t"].create', "unknown key"),
        (read_permissions, {}, "at", "must be a list of objects, not an object"),
        (read_permissions, ["/x"], "at[0]", "must be an object like"),
        (read_permissions, [RULE, {"mode": "0755"}], "at[1]", "needs either path or regex"),
        (read_permissions, [RULE | {"regex": "x"}], "at[0]", "needs either path or regex"),
        (read_permissions, [{"path": "/x"}], "at[0]", "changes nothing; give mode"),
        (read_permissions, [{"path": "/x", "create": False}], "at[0]", "changes nothing"),
        (read_permissions, [{"regex": "/x", "create": True}], "at[0].create", "needs a path"),
        (read_permissions, [RULE | {"create": "yes"}], "at[0].create", "must be a boolean, not"),
        (
            read_permissions,
            [RULE | {"modes": "0755"}],
            "at[0].modes",
            'unknown key (did you mean "mode"?)',
        ),
        (read_permissions, [RULE | {"mode": "0o755"}], "at[0].mode", "not '0o755'"),
        (read_permissions, [RULE | {"mode": "0855"}], "at[0].mode", "not '0855'"),
        (read_permissions, [RULE | {"mode": "17777"}], "at[0].mode", "not '17777'"),
        (
            read_permissions,
            [RULE | {"mode": "u+x"}],
            "at[0].mode",
            "must be octal digits in a string",
        ),
        (read_permissions, [RULE | {"mode": True}], "at[0].mode", "not a boolean"),
        (
            read_permissions,
            [RULE | {"mode": "\u0660\u0667\u0665\u0665"}],
            "at[0].mode",
            "must be octal digits",
        ),
        (read_permissions, [RULE | {"uid": 2**32 - 1}], "at[0].uid", "must be a number from 0"),
        (read_permissions, [RULE | {"gid": "wheel"}], "at[0].gid", "not 'wheel'"),
        (
            read_permissions,
            [RULE | {"gid": 1.5}],
            "at[0].gid",
            "a number from 0 to 4294967294, not 1.5",
        ),
        (read_permissions, [{"path": "", "uid": 0}], "at[0].path", "is empty"),
        (read_permissions, [{"path": "/a/../b", "uid": 0}], "at[0].path", "write '/b'"),
        (read_permissions, [{"path": "/a\0", "uid": 0}], "at[0].path", "contains a NUL character"),
        (read_permissions, [{"path": 1, "uid": 0}], "at[0].path", "must be a string, not a number"),
        (
            read_permissions,
            [{"regex": "(", "uid": 0}],
            "at[0].regex",
            "'(' is not a regular expression",
        ),
        (
            read_permissions,
            [{"regex": "a{99999999999}", "uid": 0}],
            "at[0].regex",
            "is not a regular",
        ),
        (read_permissions, [{"regex": "[[a]", "uid": 0}], "at[0].regex", "Possible nested set"),
        (read_permissions, [{"regex": "(" * 9999 + ")" * 9999, "uid": 0}], "at[0].regex", "is no"),
        (
            read_permissions,
            [RULE | {"capabilities": "net_raw=ep"}],
            "at[0].capabilities",
            "'net_raw' is no",
        ),
        (read_permissions, [RULE | {"capabilities": ""}], "at[0].capabilities", "is empty"),
        (
            read_permissions,
            [RULE | {"create": True, "capabilities": "cap_kill=p"}],
            "at[0].capabilities",
            "create is for directories",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": []}],
            "at[0].xattrs",
            "must be an object, not a list",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"x": "1"}}],
            'at[0].xattrs["x"]',
            "is not an extended attribute name",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.": "1"}}],
            'at[0].xattrs["user."]',
            "is not an extended attribute name",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.a=b": "1"}}],
            'at[0].xattrs["user.a=b"]',
            "is no",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.a": 1}}],
            'at[0].xattrs["user.a"]',
            "not a number",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.a": "\ud800"}}],
            'at[0].xattrs["user.a"]',
            "unpaired UTF-16 surrogate",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.a": {"base64": "?"}}}],
            'at[0].xattrs["user.a"].base64',
            "is not base64",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user.a": "a" * 70000}}],
            'at[0].xattrs["user.a"]',
            "has 70000 bytes; at most 65536 are allowed",
        ),
        (
            read_permissions,
            [RULE | {"xattrs": {"user." + "a" * 251: ""}}],
            f'at[0].xattrs["user.{"a" * 251}"]',
            "is longer than 255 bytes",
        ),
    ],
)
def test_faults(function: Any, value: object, place: str, message: str) -> None:
    """A faulty rule must be reported with its place, not guessed at."""
    _, faults = read(function, value)
    assert len(faults) == 1, faults
    assert faults[0][0] == place
    assert message in faults[0][1]
