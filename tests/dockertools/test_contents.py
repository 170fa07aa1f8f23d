"""The small contents, as files in the store."""

import os

import pytest

from .harness import Functions

pytestmark = [pytest.mark.consumers]


def test_users_and_groups(functions: Functions) -> None:
    """Programs that look up root or nobody fail without them."""
    nss = functions.build("""
        fakeNss.override { extraPasswdLines = [ "a:x:1:2::/:/bin/sh" ]; extraGroupLines = [ "a:x:2:" ]; }
    """)
    assert (nss / "etc" / "passwd").read_text() == (
        "root:x:0:0:root user:/var/empty:/bin/sh\n"
        "a:x:1:2::/:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/var/empty:/bin/sh\n"
    )
    assert (nss / "etc" / "group").read_text() == "root:x:0:\na:x:2:\nnobody:x:65534:\n"
    assert (nss / "etc" / "nsswitch.conf").read_text() == "hosts: files dns\n"
    assert os.listdir(nss / "var" / "empty") == []


# What dockerTools' shadowSetup makes of an empty root.
SHADOW = {
    "etc/passwd": b"root:x:0:0::/root:/bin/bash\n",
    "etc/shadow": b"root:!x:::::::\n",
    "etc/group": b"root:x:0:\n",
    "etc/gshadow": b"root:x::\n",
    "etc/pam.d/other": (
        b"account sufficient pam_unix.so\n"
        b"auth sufficient pam_rootok.so\n"
        b"password requisite pam_unix.so nullok yescrypt\n"
        b"session required pam_unix.so\n"
    ),
    "etc/login.defs": b"",
}


def test_shadow_setup(functions: Functions) -> None:
    """After it, useradd works; what an image has already stays."""
    image = functions.image("""
        streamLayeredImage {
          name = "a";
          enableFakechroot = true;
          fakeRootCommands = ''
            mkdir -p /etc
            echo kept > /etc/login.defs
            ${shadowSetup}
            type -P useradd > /found
          '';
        }
    """)
    for name, content in {**SHADOW, "etc/login.defs": b"kept\n"}.items():
        assert image.content(f"./{name}") == content
    assert image.content("./found").endswith(b"-shadow/bin/useradd\n")


def test_shell_script(functions: Functions) -> None:
    """A script stops at the first command that fails, and is found without a PATH of its own."""
    script = functions.build("""shellScript "script" "echo a; false; echo b" """)
    lines = script.read_text().splitlines()
    assert lines[:2] == ["#!/bin/bash", "set -e"]
    assert lines[2].endswith("/bin:/bin")
    assert os.access(script, os.X_OK)
