"""Capabilities in text form, compared with bytes made by hand from linux/capability.h."""

import re
import struct

import pytest

from stream.schema.capabilities import NAMES, capability_data, container_data

KILL, NET_BIND_SERVICE, NET_ADMIN, NET_RAW, BPF = 5, 10, 12, 13, 39
ALL = (1 << 41) - 1


def data(permitted: int, inheritable: int, *, effective: bool) -> bytes:
    """Return a `struct vfs_cap_data` of revision 2, word by word."""
    words = [0x02000000 + effective]
    for shift in (0, 32):
        words += [permitted >> shift & 0xFFFFFFFF, inheritable >> shift & 0xFFFFFFFF]
    return struct.pack("<IIIII", *words)


@pytest.mark.parametrize(
    ("text", "permitted", "inheritable", "effective"),
    [
        ("cap_net_bind_service=ep", 1 << NET_BIND_SERVICE, 0, True),
        ("CAP_Net_Bind_Service=ep", 1 << NET_BIND_SERVICE, 0, True),
        ("cap_net_raw,cap_net_admin+ep", 1 << NET_RAW | 1 << NET_ADMIN, 0, True),
        ("cap_net_raw=p cap_kill=i", 1 << NET_RAW, 1 << KILL, False),
        ("  cap_net_raw=p\tcap_kill+p\n", 1 << NET_RAW | 1 << KILL, 0, False),
        ("cap_bpf=eip", 1 << BPF, 1 << BPF, True),
        ("all=ep", ALL, 0, True),
        ("=ep", ALL, 0, True),
        ("=p cap_net_raw-p", ALL & ~(1 << NET_RAW), 0, False),
        ("all=eip cap_kill-i cap_kill-ep", ALL & ~(1 << KILL), ALL & ~(1 << KILL), True),
        ("cap_net_raw=+ep", 1 << NET_RAW, 0, True),
        ("cap_net_raw+ep-e", 1 << NET_RAW, 0, False),
        ("cap_net_raw+p cap_net_raw=", 0, 0, False),
        ("cap_net_raw=e", 0, 0, True),
        ("5,0xd,012=ep", 1 << KILL | 1 << NET_RAW | 1 << NET_BIND_SERVICE, 0, True),
        ("63=p", 1 << 63, 0, False),
    ],
)
def test_bytes(text: str, permitted: int, inheritable: int, *, effective: bool) -> None:
    """A wrong bit would give a program rights that were not intended."""
    assert capability_data(text) == data(permitted, inheritable, effective=effective)


def test_numbers_are_names() -> None:
    """A name missing in the middle of the table would shift all that follow."""
    assert len(NAMES) == 41
    for number, name in enumerate(NAMES):
        assert capability_data(f"{name}=i") == data(0, 1 << number, effective=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is not a clause such as cap_net_bind_service=ep"),
        ("cap_net_raw", "'cap_net_raw' is not a clause such as"),
        ("cap_net_raw ep", "'cap_net_raw' is not a clause such as"),
        ("cap_net_raw=x", "is not a clause such as"),
        ("cap_net_raw+", "is not a clause such as"),
        ("cap_net_raw=ep+", "is not a clause such as"),
        ("cap_net_raw,=ep", "is not a clause such as"),
        ("cap_net_raw\xa0=p", "is not a clause such as"),
        ("cap_kill=p\u2003cap_net_raw=p", "is not a clause such as"),
        ("+ep", "is not a clause such as"),
        ("=p+e", "need capabilities before them; write all"),
        ("net_raw=ep", "'net_raw' is not a capability (did you mean \"cap_net_raw\"?)"),
        ("cap_net_rwa=ep", "'cap_net_rwa' is not a capability (did you mean \"cap_net_raw\"?)"),
        ("08=p", "'08' is not a capability"),
        ("0x=p", "'0x' is not a capability"),
        ("64=p", "'64' is not a capability; numbers are below 64"),
        ("cap_net_raw=ep cap_kill=p", "give e to all or none"),
        ("cap_net_raw=ep cap_kill=i", "give e to all or none"),
        ("1" * 5000 + "=p", "has 5002 characters"),
    ],
)
def test_faults(text: str, message: str) -> None:
    """A capability that the kernel would refuse has to be reported before the image is built."""
    with pytest.raises(ValueError, match=re.escape(message)):
        capability_data(text)


def test_capabilities_of_a_user_namespace() -> None:
    """Without it a program copied by an ordinary user would only work for that user's containers."""
    plain = capability_data("cap_net_raw=ep")
    namespaced = bytes.fromhex("01000003") + plain[4:] + (1000).to_bytes(4, "little")
    assert container_data(namespaced) == plain
    assert container_data(plain) == plain
