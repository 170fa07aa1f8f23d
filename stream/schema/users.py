"""Read and write the users and groups of a customisation layer in JSON.

    users   {"web": {"uid": 1000, "gid": 1000, "home": "/srv", "shell": "/bin/sh", "comment": ""}}
    groups  {"web": {"gid": 1000, "members": ["web"]}}

Only `uid` and the `gid` of a group are required. `fault` is called with each fault; the value
returned then is not usable. Must not know the files that hold users: passwd(5), group(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from stream.faults import NoteFault, is_text, kind, why_not_normal
from stream.model import Group, User
from stream.schema.fields import Fields

_USER = frozenset({"comment", "gid", "home", "shell", "uid"})
_GROUP = frozenset({"gid", "members"})
# What useradd(8) accepts, and upper case, which images have; never a number, which would be an ID.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_DEFAULT = User(name="", uid=0, gid=0)


def read_users(value: object, place: str, fault: NoteFault) -> tuple[User, ...]:
    """Read the users, ordered by name."""
    found: list[User] = []
    for name, fields in _members(value, place, _USER, fault):
        uid = _id(fields, "uid")
        gid = fields.id("gid")
        texts = {
            key: fields.text(key, getattr(_DEFAULT, key)) for key in ("comment", "home", "shell")
        }
        for key, text in texts.items():
            if {*":\n"} & {*text} or not is_text(text):
                fields.fault(key, "has a colon or a line break, which passwd(5) cannot hold")
            elif key != "comment" and text and (wrong := why_not_normal(text)):
                fields.fault(key, f"{text!r} {wrong}")
        found.append(User(name=name, uid=uid, gid=uid if gid is None else gid, **texts))
    _check_ids([(user.name, user.uid) for user in found], "uid", place, fault)
    return tuple(found)


def read_groups(value: object, place: str, fault: NoteFault) -> tuple[Group, ...]:
    """Read the groups, ordered by name."""
    found: list[Group] = []
    for name, fields in _members(value, place, _GROUP, fault):
        members = fields.texts("members")
        for index, member in enumerate(members):
            if not _NAME.fullmatch(member):
                fields.fault(f"members[{index}]", f"{member!r} is not the name of a user")
        found.append(Group(name=name, gid=_id(fields, "gid"), members=members))
    _check_ids([(group.name, group.gid) for group in found], "gid", place, fault)
    return tuple(found)


def _members(
    value: object, place: str, known: frozenset[str], fault: NoteFault
) -> Iterator[tuple[str, Fields]]:
    if value is not None and not isinstance(value, dict):
        fault(place, f"must be an object, not {kind(value)}")
    for name, item in sorted(value.items() if isinstance(value, dict) else ()):
        at = f"{place}.{name}"
        if not _NAME.fullmatch(name):
            fault(place, f"{name!r} is not a name that users and groups can have")
        elif not isinstance(item, dict):
            fault(at, f"must be an object, not {kind(item)}")
        else:
            fields = Fields(item, at, fault)
            fields.check_keys(known)
            yield name, fields


def _id(fields: Fields, key: str) -> int:
    if not fields.has(key):
        fields.fault(key, "is missing")
    return fields.id(key) or 0


def _check_ids(ids: list[tuple[str, int]], key: str, place: str, fault: NoteFault) -> None:
    owners: dict[int, str] = {}
    for name, number in ids:
        owner = owners.setdefault(number, name)
        if owner != name:
            fault(f"{place}.{name}.{key}", f"{number} is that of {owner} as well")


def user_documents(users: tuple[User, ...], groups: tuple[Group, ...]) -> dict[str, Any]:
    """Return the members `users` and `groups` of a recipe. Defaults are omitted."""
    return {
        "users": {
            user.name: {
                key: value
                for key in sorted(_USER)
                if (value := getattr(user, key)) != getattr(_DEFAULT, key) or key in {"uid", "gid"}
            }
            for user in users
        },
        "groups": {
            group.name: {
                "gid": group.gid,
                **({"members": [*group.members]} if group.members else {}),
            }
            for group in groups
        },
    }
