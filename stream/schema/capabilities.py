"""Encode file capabilities: from the notation of cap_from_text(3) to the bytes of the
extended attribute `security.capability`.

Format: linux/capability.h, `struct vfs_cap_data`, revision 2; revision 3 is read. Must not know files or query
the kernel: on every machine, `all` stands for the capabilities of Linux 5.9 and later.
"""

from __future__ import annotations

import re
import struct

from stream.faults import suggest

ATTRIBUTE = b"security.capability"
MAX_TEXT = 4096  # characters

# By number.
NAMES = (
    "cap_chown", "cap_dac_override", "cap_dac_read_search", "cap_fowner", "cap_fsetid",
    "cap_kill", "cap_setgid", "cap_setuid", "cap_setpcap", "cap_linux_immutable",
    "cap_net_bind_service", "cap_net_broadcast", "cap_net_admin", "cap_net_raw",
    "cap_ipc_lock", "cap_ipc_owner", "cap_sys_module", "cap_sys_rawio", "cap_sys_chroot",
    "cap_sys_ptrace", "cap_sys_pacct", "cap_sys_admin", "cap_sys_boot", "cap_sys_nice",
    "cap_sys_resource", "cap_sys_time", "cap_sys_tty_config", "cap_mknod", "cap_lease",
    "cap_audit_write", "cap_audit_control", "cap_setfcap", "cap_mac_override",
    "cap_mac_admin", "cap_syslog", "cap_wake_alarm", "cap_block_suspend", "cap_audit_read",
    "cap_perfmon", "cap_bpf", "cap_checkpoint_restore",
)  # fmt: skip
_NUMBERS = {name: number for number, name in enumerate(NAMES)}
_ALL = (1 << len(NAMES)) - 1
_BITS = 64  # the capabilities that the attribute has room for

_REVISION_MASK, _REVISION_2, _REVISION_3, _EFFECTIVE = 0xFF000000, 0x02000000, 0x03000000, 0x000001
# magic_etc; permitted and inheritable of the lower 32 capabilities, then of the upper
_VFS_CAP_DATA = struct.Struct("<5I")

_CLAUSE = re.compile(r"(?P<names>\w+(?:,\w+)*)?(?P<actions>(?:=[eip]*)?(?:[+-][eip]+)*)", re.ASCII)
_ACTION = re.compile(r"([=+-])([eip]*)")
_NUMBER = re.compile(r"(0x[0-9a-f]+)|(0[0-7]*)|([1-9][0-9]*)")


def capability_data(text: str) -> bytes:
    """Return the value of `security.capability` for `text`, such as `cap_net_bind_service=ep`.
    Raises ValueError with a reason that follows the place of `text` in a message.
    """
    if len(text) > MAX_TEXT:
        raise ValueError(f"has {len(text)} characters; at most {MAX_TEXT} are allowed")
    sets = dict.fromkeys("eip", 0)
    for clause in re.split(r"[ \t\n\v\f\r]+", text.strip(" \t\n\v\f\r")):
        _apply(clause, sets)
    effective, inheritable, permitted = sets.values()
    if effective and effective & (permitted | inheritable) != permitted | inheritable:
        raise ValueError(
            f"{text!r}: a file has one effective flag for all capabilities; give e to all or none"
        )
    low = (1 << 32) - 1
    return _VFS_CAP_DATA.pack(
        _REVISION_2 | (_EFFECTIVE if effective else 0),
        permitted & low,
        inheritable & low,
        permitted >> 32,
        inheritable >> 32,
    )


def container_data(data: bytes) -> bytes:
    """Return the value of `security.capability` of a file as it is in a container. Revision 3
    adds the root user of the user namespace where it was set; in a container, that is the
    container's, as of revision 2.
    """
    (magic,) = struct.unpack_from("<I", data)
    if magic & _REVISION_MASK != _REVISION_3:
        return data
    return struct.pack("<I", magic & ~_REVISION_MASK | _REVISION_2) + data[4 : _VFS_CAP_DATA.size]


def _apply(clause: str, sets: dict[str, int]) -> None:
    """Apply one clause to the sets."""
    match = _CLAUSE.fullmatch(clause)
    # A clause without names applies to all, and can only set.
    if not match or not match["actions"] or not (match["names"] or match["actions"][0] == "="):
        raise ValueError(f"{clause!r} is not a clause such as cap_net_bind_service=ep")
    actions = _ACTION.findall(match["actions"])
    if not match["names"] and len(actions) > 1:
        raise ValueError(f"{clause!r}: + and - need capabilities before them; write all")
    listed = 0
    for name in (match["names"] or "all").split(","):
        listed |= _mask(name.lower())
    for sign, flags in actions:
        for flag in sets if sign == "=" else flags:
            if sign != "+":
                sets[flag] &= ~listed
        for flag in flags if sign != "-" else "":
            sets[flag] |= listed


def _mask(name: str) -> int:
    """Return the bit of the capability with the name or number `name`; for `all`, every bit."""
    if name == "all":
        return _ALL
    if name in _NUMBERS:
        return 1 << _NUMBERS[name]
    if not (match := _NUMBER.fullmatch(name)):
        hint = suggest("cap_" + name.removeprefix("cap_"), NAMES)
        raise ValueError(f"{name!r} is not a capability{hint}")
    number = int(name, {1: 16, 2: 8, 3: 10}[match.lastindex or 0])
    if number >= _BITS:
        raise ValueError(f"{name!r} is not a capability; numbers are below {_BITS}")
    return 1 << number
