"""Read and write the owner and permissions of a customisation layer in JSON.

    owner        {"uid": 1000, "gid": 1000}
    directories  {"/tmp": "1777", "/home/app": {"mode": "0700", "uid": 1000, "gid": 1000}}
    perms        [{"path": "/bin/ping", "capabilities": "cap_net_raw=ep"},
                  {"regex": "/etc/ssl/private/.*", "mode": "0600",
                   "xattrs": {"user.origin": "here", "user.key": {"base64": "AAE="}}}]

`fault` is called with each fault; the value returned then is not usable. `null` counts as
absent. Regular expressions are trusted, like commands: their running time is not limited.
Must not know the tree that they apply to.
"""

from __future__ import annotations

import binascii
import json
import re
import warnings
from base64 import b64decode, b64encode
from typing import Any

from stream.faults import NoteFault, is_text, kind, why_not_in_image
from stream.model import Permission
from stream.schema.capabilities import capability_data
from stream.schema.fields import Fields

MAX_PATH, MAX_NAME = 4096, 255  # bytes; Linux's limits
MAX_XATTR_NAME, MAX_XATTR_VALUE = 255, 1 << 16  # bytes; linux/limits.h

_ATTRIBUTES = frozenset({"gid", "mode", "uid", "xattrs"})
_KEYS = _ATTRIBUTES | {"capabilities", "create", "path", "regex"}
_OWNER = frozenset({"gid", "uid"})
_MODE = re.compile("0?[0-7]{3,4}")
# xattr(7). It is stored in the name of a pax record, which an equals sign would end.
_XATTR_NAME = re.compile(r"(?:security|system|trusted|user)\.[^=\0]+")


def read_owner(value: object, place: str, fault: NoteFault) -> tuple[int, int] | None:
    """Read the user and the group that own the whole layer."""
    if value is None:
        return None
    if not isinstance(value, dict):
        fault(place, f'must be an object like {{"uid": 1000, "gid": 1000}}, not {kind(value)}')
        return None
    fields = Fields(value, place, fault)
    fields.check_keys(_OWNER)
    uid, gid = fields.id("uid"), fields.id("gid")
    for key in sorted(_OWNER):
        if not fields.has(key):
            fields.fault(key, "is missing")
    return uid or 0, gid or 0


def read_directories(value: object, place: str, fault: NoteFault) -> tuple[Permission, ...]:
    """Read the directories to create if they are missing, each with its mode or an object."""
    if value is None:
        return ()
    if not isinstance(value, dict):
        fault(place, f'must be an object like {{"/tmp": "1777"}}, not {kind(value)}')
        return ()
    found = []
    for name, item in value.items():
        at = f"{place}[{json.dumps(name, ensure_ascii=False)}]"
        if wrong := why_not_path(name):
            fault(at, wrong)
        elif isinstance(item, dict):
            fields = Fields(item, at, fault)
            fields.check_keys(_ATTRIBUTES)
            found.append(_permission(fields, path=name.encode(), create=True))
        else:
            mode = read_mode(item, at, fault)
            found.append(Permission(path=name.encode(), create=True, mode=mode))
    return tuple(found)


def read_permissions(value: object, place: str, fault: NoteFault) -> tuple[Permission, ...]:
    """Read the rules, in order: attributes for the entry at a path, or for all that match."""
    if value is None:
        return ()
    if not isinstance(value, list):
        fault(place, f"must be a list of objects, not {kind(value)}")
        return ()
    found = []
    for index, item in enumerate(value):
        at = f"{place}[{index}]"
        if isinstance(item, dict):
            found.append(_rule(Fields(item, at, fault)))
        else:
            fault(at, f'must be an object like {{"path": "/x", "mode": "0755"}}, not {kind(item)}')
    return tuple(found)


def _rule(fields: Fields) -> Permission:
    fields.check_keys(_KEYS)
    path, regex = (fields.text(key, nul=True, empty=False) for key in ("path", "regex"))
    create = fields.boolean("create")
    capabilities = fields.text("capabilities", nul=True, empty=False)
    if fields.has("path") == fields.has("regex"):
        fields.fault("", "needs either path or regex")
    if path and (wrong := why_not_path(path)):
        fields.fault("path", wrong)
    if regex:
        if wrong := _why_not_regex(regex):
            fields.fault("regex", wrong)
        if create:
            fields.fault("create", "needs a path; a regex does not name a directory to create")
    if capabilities:
        try:
            capability_data(capabilities)
        except ValueError as error:
            fields.fault("capabilities", str(error))
        if create:
            fields.fault("capabilities", "apply to files, but create is for directories")
    rule = _permission(
        fields,
        path=path.encode(),
        regex=regex,
        create=create,
        capabilities=capabilities,
    )
    if not (create or fields.has("capabilities", *_ATTRIBUTES)):
        fields.fault("", "changes nothing; give mode, uid, gid, xattrs or capabilities")
    return rule


def _permission(fields: Fields, **more: Any) -> Permission:
    """Return the rule with the attributes among `fields`, and `more`."""
    mode = fields.get("mode")
    return Permission(
        mode=None if mode is None else read_mode(mode, "mode", fields.fault),
        uid=fields.id("uid"),
        gid=fields.id("gid"),
        xattrs=_xattrs(fields),
        **more,
    )


def _why_not_regex(regex: str) -> str | None:
    """Return why `regex` is not a regular expression, or None if it is."""
    try:
        with warnings.catch_warnings():
            # A later Python will read some expressions differently, and warns of them.
            warnings.simplefilter("error")
            re.compile(regex)
    except (re.error, OverflowError, RecursionError, Warning) as error:
        return f"{regex!r} is not a regular expression: {error}"
    return None


def _xattrs(fields: Fields) -> tuple[tuple[bytes, bytes], ...]:
    found = []
    for name, item in fields.object("xattrs").items():
        at = f"xattrs[{json.dumps(name, ensure_ascii=False)}]"
        if not is_text(name) or not _XATTR_NAME.fullmatch(name):
            fields.fault(
                at, "is not an extended attribute name; use security, system, trusted or user,"
                " a dot, and a name without an equals sign"
            )  # fmt: skip
            continue
        if len(name.encode()) > MAX_XATTR_NAME:
            fields.fault(at, f"is longer than {MAX_XATTR_NAME} bytes")
        data = _xattr_value(fields, at, item)
        if len(data) > MAX_XATTR_VALUE:
            fields.fault(at, f"has {len(data)} bytes; at most {MAX_XATTR_VALUE} are allowed")
        found.append((name.encode(), data))
    return tuple(found)


def _xattr_value(fields: Fields, at: str, item: object) -> bytes:
    if isinstance(item, str):
        if not is_text(item):
            fields.fault(at, "contains an unpaired UTF-16 surrogate; write bytes in base64")
            return b""
        return item.encode()
    if isinstance(item, dict) and item.keys() == {"base64"}:
        try:
            return b64decode(item["base64"], validate=True)
        except (TypeError, ValueError, binascii.Error):
            fields.fault(f"{at}.base64", "is not base64")
            return b""
    fields.fault(at, f'must be a string or {{"base64": …}}, not {kind(item)}')
    return b""


def read_mode(value: object, place: str, fault: NoteFault) -> int | None:
    """Read a mode in octal digits."""
    if isinstance(value, str) and _MODE.fullmatch(value):
        return int(value, 8)
    wanted = 'must be octal digits in a string, like "0755"'
    if isinstance(value, int) and not isinstance(value, bool):
        fault(place, f"{wanted}; a JSON number is decimal")
    else:
        shown = repr(value) if isinstance(value, str) else kind(value)
        fault(place, f"{wanted}, not {shown}")
    return None


def why_not_path(path: str) -> str | None:
    """Return why `path` cannot be the path of an entry in an image, or None if it can."""
    if wrong := why_not_in_image(path):
        return f"{path!r} {wrong}"
    length = len(path.encode())
    if length > MAX_PATH:
        return f"has {length} bytes; at most {MAX_PATH} are allowed"
    longest = max(len(name.encode()) for name in path.split("/"))
    if longest > MAX_NAME:
        return f"has a component of {longest} bytes; at most {MAX_NAME} are allowed"
    return None


# ---- writing


def permission_documents(permissions: tuple[Permission, ...]) -> dict[str, Any]:
    """Return `permissions` as members of a recipe: the leading rules that only create
    directories as `directories`, the rest as `perms`.
    """
    directories: dict[str, Any] = {}
    for rule in permissions:
        path = rule.path.decode()
        if not rule.create or path in directories:
            break
        attributes = _attributes(rule)
        directories[path] = attributes["mode"] if [*attributes] == ["mode"] else attributes
    rules = [_rule_document(rule) for rule in permissions[len(directories) :]]
    return {"directories": directories, "perms": rules}


def _rule_document(rule: Permission) -> dict[str, Any]:
    attributes = _attributes(rule)
    named = {
        "path": rule.path.decode(),
        "regex": rule.regex,
        "create": rule.create,
        "capabilities": rule.capabilities,
    }
    document = {**{key: value for key, value in named.items() if value}, **attributes}
    if not (rule.create or rule.capabilities or attributes):
        document["xattrs"] = {}  # as in the source: a rule without attributes is a fault
    return document


def _attributes(rule: Permission) -> dict[str, Any]:
    """Return the attributes that `rule` sets, by key."""
    attributes = {
        "mode": None if rule.mode is None else f"{rule.mode:04o}",
        "uid": rule.uid,
        "gid": rule.gid,
        "xattrs": {name.decode(): _value_document(value) for name, value in rule.xattrs} or None,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def _value_document(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(value).decode()}
