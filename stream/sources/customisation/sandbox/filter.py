"""The system calls that commands are denied: those of the kernel's keyrings.

No namespace has these: a program of the same user ID, or one that inherits the session's keyring,
can read keys, change and remove them. Knows the kernel's numbers for them; not who asks.
"""

from __future__ import annotations

import errno
import struct

# The number of add_key(2) by architecture, as linux/audit.h has these. It is followed by
# request_key(2) and keyctl(2). One kernel can have programs of several.
_ADD_KEY = {
    0xC000003E: 248,  # x86-64
    0x40000003: 286,  # i386
    0xC00000B7: 217,  # arm64
    0x40000028: 309,  # arm
    0xC00000F3: 217,  # riscv64
    0xC0000102: 217,  # loongarch64
    0xC0000015: 269,  # ppc64le
    0x80000016: 278,  # s390x
}
_COUNT = 3
_X32 = 1 << 30  # a bit in the numbers of x86-64 for programs with short pointers
# Of linux/bpf_common.h and linux/seccomp.h.
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def denied_calls() -> bytes:
    """Return a seccomp filter, in the kernel's byte order: the calls fail with ENOSYS, as in a
    kernel without keyrings.
    """
    program = b""
    for architecture, first in _ADD_KEY.items():
        program += b"".join(
            (
                _instruction(_LOAD, _ARCHITECTURE),
                _instruction(_EQUAL, architecture, otherwise=6),
                _instruction(_LOAD, _NUMBER),
                _instruction(_AND, ~_X32 & 0xFFFFFFFF),
                _instruction(_AT_LEAST, first, otherwise=2),
                _instruction(_AT_LEAST, first + _COUNT, then=1),
                _instruction(_RETURN, _FAIL | errno.ENOSYS),
                _instruction(_RETURN, _ALLOW),
            )
        )
    return program + _instruction(_RETURN, _ALLOW)


def _instruction(code: int, value: int, *, then: int = 0, otherwise: int = 0) -> bytes:
    """Encode an instruction; `then` and `otherwise` are how many it skips."""
    return struct.pack("=HBBI", code, then, otherwise, value)
