"""Containers that cannot start: `plan` and `verify` say so, and never of those that can."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, Entry, link, tar_of
from support import COMMAND, unpack

import stream
from stream.oci.start import interpreter_of
from stream.planning.plan import plan
from stream.planning.spec import parse_spec

HASH = "0123456789abcdfghijklmnpqrsvwxyz"
PASSWD = b"root:x:0:0::/:/bin/sh\nweb:x:5:5::/:/bin/sh\n"


def program(content: bytes = b"program", mode: int = 0o755) -> tuple[int, bytes]:
    """Return an executable file."""
    return mode, content


def elf(interpreter: bytes, *, wide: bool = True, order: str = "<") -> bytes:
    """Return the beginning of an ELF file with a dynamic loader."""
    at = 200
    if wide:
        ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2]) + bytes(10)
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIQQQQQQ", 3, 4, at, 0, 0, len(interpreter) + 1, 0, 1)
    else:
        ident = b"\x7fELF" + bytes([1, 1 if order == "<" else 2]) + bytes(10)
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        segment = struct.pack(f"{order}IIIIIIII", 3, at, 0, 0, len(interpreter) + 1, 0, 4, 1)
    return (ident + header + segment).ljust(at, b"\0") + interpreter + b"\0"


# A layer: entries by name; text is a link's target, None a directory, bytes a plain file.
Layer = dict[str, tuple[int, bytes] | bytes | str | None]


def layer(entries: Layer) -> bytes:
    """Return the tar of a layer."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, what in entries.items():
            info = tarfile.TarInfo(name)
            content = b""
            if what is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(what, str):
                info = link(what)
                info.name = name
            else:
                info.mode, content = what if isinstance(what, tuple) else (0o644, what)
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def verified(tmp_path: Path, config: dict[str, Any], *layers: Layer) -> list[str]:
    """Return the reasons that `verify` gives."""
    path = tmp_path / "image.tar"
    base = Base(layers=[*map(layer, layers)], config=config)
    path.write_bytes(base.docker_archive())
    found = stream.verify(path)
    assert not found.faults
    rules = {finding.rule for finding in found.findings} - {"no-index"}
    assert all(rule.startswith("start-") for rule in rules)
    end = "; a container will not start"
    return [
        finding.message.removesuffix(end)
        for finding in found.findings
        if finding.rule.startswith("start-") and finding.message.endswith(end)
    ]


def planned(tmp_path: Path, config: dict[str, Any], *layers: Layer) -> list[str]:
    """Return the reasons that `plan` gives: the lower layers are a base image, the last one is
    copied.
    """
    *below, top = layers or ({},)
    document: dict[str, Any] = {"name": "x", "architecture": "amd64", "config": config}
    document["includeStorePaths"] = False
    if below:
        base = tmp_path / "base.tar"
        base.write_bytes(Base(layers=[*map(layer, below)]).docker_archive())
        document["fromImage"] = str(base)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(fileobj=io.BytesIO(layer(top))) as tar:
        unpack(tar, root)
    document["copyToRoot"] = [str(root)]
    warnings: list[str] = []
    plan(parse_spec(json.dumps(document).encode()), warn=warnings.append)
    end = "; a container will not start"
    found = [line.removesuffix(end) for line in warnings if line.endswith(end)]
    assert all(line.startswith("spec.json: ") for line in found)
    return [line.removeprefix("spec.json: ") for line in found]


Find = Callable[..., list[str]]
both = pytest.mark.parametrize("find", [verified, planned])

STARTS: dict[str, tuple[dict[str, Any], list[Layer]]] = {
    "nothing": ({}, [{}]),
    "absolute": ({"Cmd": ["/bin/x"]}, [{"bin/x": program()}]),
    "default PATH": ({"Cmd": ["x", "nothing"]}, [{"usr/bin/x": program()}]),
    "own PATH": ({"Cmd": ["x"], "Env": ["PATH=/a:/b"]}, [{"b/x": program()}]),
    "relative": ({"Cmd": ["./x"], "WorkingDir": "/srv"}, [{"srv/x": program()}]),
    "PATH here": ({"Cmd": ["x"], "Env": ["PATH=:/a"], "WorkingDir": "/s"}, [{"s/x": program()}]),
    "entry point": ({"Entrypoint": ["/x"], "Cmd": ["--help"]}, [{"x": program()}]),
    "empty entry point": ({"Entrypoint": [], "Cmd": ["/x"]}, [{"x": program()}]),
    "linked": ({"Cmd": ["/bin/x"]}, [{"bin": "usr/bin", "usr/bin/x": "../../y", "y": program()}]),
    "linked above": ({"Cmd": ["/bin/x"]}, [{"bin": "usr/bin"}, {"usr/bin/x": program()}]),
    "linked below": ({"Cmd": ["/bin/x"]}, [{"usr/bin/y": program()}, {"bin/x": "../usr/bin/y"}]),
    "absolute link": ({"Cmd": ["/x"]}, [{"a/y": program(), "x": "/../a/./y"}]),
    "executable for others": ({"Cmd": ["/x"]}, [{"x": program(mode=0o601)}]),
    "script": ({"Cmd": ["/x"]}, [{"x": program(b"#! /bin/sh -e\n"), "bin/sh": program()}]),
    "loader": ({"Cmd": ["/x"]}, [{"x": program(elf(b"/lib/ld")), "lib/ld": program()}]),
    "static": ({"Cmd": ["/x"]}, [{"x": program(b"\x7fELF" + bytes(200))}]),
    "store of the host": (
        {"Cmd": [f"/nix/store/{HASH}-x/bin/x"], "User": "web"}, [{"etc/passwd": PASSWD}],
    ),
    "linked to the host": ({"Cmd": ["/x"]}, [{"x": "/opt/app/bin/x"}]),
    "volume": ({"Cmd": ["/srv/x"], "Volumes": {"/srv": {}}}, [{}]),
    "number": ({"User": "5"}, [{}]),
    "numbers": ({"User": "5:6"}, [{}]),
    "user": ({"User": "web"}, [{"etc/passwd": PASSWD}]),
    "user and group": ({"User": "web:g"}, [{"etc/passwd": PASSWD}, {"etc/group": b"g:x:5:\n"}]),
    "linked user": ({"User": "web"}, [{"etc/passwd": "../run/etc/passwd", "run/etc/passwd": PASSWD}]),
    "unknown users": ({"User": "web"}, [{"etc/passwd": "../run/p", "run/p": PASSWD}]),
    "directory that is missing": ({"WorkingDir": "/srv/x"}, [{}]),
    "directory": ({"WorkingDir": "/x"}, [{"x": "srv", "srv": None}]),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", STARTS)
def test_what_starts_is_not_blamed(find: Find, tmp_path: Path, case: str) -> None:
    """A warning that is often wrong is not read when it is right."""
    config, layers = STARTS[case]
    assert find(tmp_path, config, *layers) == []


DOES_NOT: dict[str, tuple[dict[str, Any], list[Layer], str]] = {
    "missing": (
        {"Cmd": ["/bin/x"]}, [{"bin/y": program()}],
        "config.Cmd[0]: /bin/x is not an executable file in the image",
    ),
    "not in PATH": (
        {"Entrypoint": ["x"], "Cmd": ["/y"], "Env": ["PATH=/a:/b"]}, [{"bin/x": program()}],
        "config.Entrypoint[0]: x is not an executable file in PATH (/a:/b)",
    ),
    "a directory": (
        {"Cmd": ["/x"]}, [{"x": None}],
        "config.Cmd[0]: /x is not an executable file in the image",
    ),
    "dangling": (
        {"Cmd": ["/x"]}, [{"x": "y", "a/b": program()}, {"x": "a/c"}],
        "config.Cmd[0]: /x is not an executable file in the image",
    ),
    "cycle": (
        {"Cmd": ["/x"]}, [{"x": "y", "y": "x"}],
        "config.Cmd[0]: /x is not an executable file in the image",
    ),
    "interpreter": (
        {"Cmd": ["x"]}, [{"bin/x": program(b"#!/bin/bash\n")}],
        "config.Cmd[0]: /bin/x needs /bin/bash, which is not in the image",
    ),
    "loader": (
        {"Cmd": ["/x"]}, [{"y": "x", "x": program(elf(b"/lib64/ld-linux.so"))}],
        "config.Cmd[0]: /x needs /lib64/ld-linux.so, which is not in the image",
    ),
    "user": (
        {"User": "db"}, [{"etc/passwd": PASSWD}],
        "config.User: user db is not in /etc/passwd of the image",
    ),
    "no users": (
        {"User": "db:5"}, [{}], "config.User: user db is not in /etc/passwd of the image",
    ),
    "users of a lower layer": (
        {"User": "db"}, [{"etc/passwd": b"db:x:5:5::/:\n"}, {"etc/passwd": PASSWD}],
        "config.User: user db is not in /etc/passwd of the image",
    ),
    "group": (
        {"User": "5:g"}, [{"etc/group": b"h:x:5:\n"}],
        "config.User: group g is not in /etc/group of the image",
    ),
    "directory": (
        {"WorkingDir": "/bin/x"}, [{"bin/x": program()}],
        "config.WorkingDir: /bin/x is not a directory",
    ),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", DOES_NOT)
def test_what_cannot_start_is_reported(find: Find, tmp_path: Path, case: str) -> None:
    """The first to notice would be whoever starts the container."""
    config, layers, reason = DOES_NOT[case]
    assert find(tmp_path, config, *layers) == [reason]


def test_a_file_that_is_not_executable(tmp_path: Path) -> None:
    """It is there, so that "not in the image" would mislead."""
    assert planned(tmp_path, {"Cmd": ["/x"]}, {"x": b""}) == ["config.Cmd[0]: /x is not executable"]
    (tmp_path / "more").mkdir()
    (reason,) = verified(tmp_path / "more", {"Cmd": ["/x"]}, {"x": b""})
    assert reason.endswith("/x is not an executable file in the image")


@pytest.mark.parametrize(
    "hidden",
    [{"bin/.wh.x": b""}, {".wh.bin": b""}, {"bin/.wh..wh..opq": b""}, {"bin": "opt"}],
)
def test_a_program_that_an_upper_layer_removes(tmp_path: Path, hidden: Layer) -> None:
    """Whiteouts count, and so does a link in place of a directory."""
    below: Layer = {"bin/x": program(), "opt/y": program()}
    assert verified(tmp_path, {"Cmd": ["/bin/x"]}, below) == []
    reasons = verified(tmp_path, {"Cmd": ["/bin/x"]}, below, hidden)
    assert reasons == ["config.Cmd[0]: /bin/x is not an executable file in the image"]


def test_hard_links(tmp_path: Path) -> None:
    """Busybox has hundreds; each is the program that it is linked to."""
    program_info = tarfile.TarInfo()
    program_info.mode = 0o755
    entries: list[Entry] = [("busybox", program_info), ("bin/sh", link("busybox", tarfile.LNKTYPE))]
    path = tmp_path / "image.tar"
    config = {"Cmd": ["sh"]}
    path.write_bytes(Base(layers=[tar_of(entries)], config=config).docker_archive())
    assert {finding.rule for finding in stream.verify(path).findings} == {"no-index"}


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_interpreter_of_an_elf_file(wide: bool, order: str) -> None:  # noqa: FBT001 — a parameter of the test
    """Programs of other architectures have one as well."""
    assert interpreter_of(elf(b"/lib/ld.so", wide=wide, order=order)) == b"/lib/ld.so"


def test_interpreter_of_a_real_program() -> None:
    """The struct is that of real programs, whose dynamic loader exists."""
    with open("/bin/sh", "rb") as file:
        found = interpreter_of(file.read(4096))
    assert Path(found.decode()).exists()


@pytest.mark.parametrize("cut", range(0, 230, 7))
def test_interpreter_of_a_cut_file(cut: int) -> None:
    """Archives are not trusted."""
    assert interpreter_of(elf(b"/lib/ld.so")[:cut]) in {b"", b"/lib/ld.so"}


def test_an_image_of_another_system_is_not_judged(tmp_path: Path) -> None:
    """Windows has other names for programs and users."""

    class Windows(Base):
        def document(self) -> dict[str, Any]:
            return {**super().document(), "os": "windows"}

    path = tmp_path / "image.tar"
    config = {"Cmd": ["c:\\\\x.exe"], "User": "ContainerUser"}
    path.write_bytes(Windows(layers=[layer({})], config=config).docker_archive())
    assert {finding.rule for finding in stream.verify(path).findings} == {"no-index"}


# ---- store paths


def test_plan_with_store_paths(tmp_path: Path) -> None:
    """Programs in store layers are found through contents, their interpreters too."""
    store = tmp_path / "store"
    bash, tool = (store / f"{HASH}-{name}" for name in ("bash", "tool"))
    for path, content in (
        (bash / "bin/bash", b"bash"),
        (tool / "bin/tool", b"#!%s/bin/bash\n" % bytes(bash)),
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        path.chmod(0o755)
    graph = tmp_path / "graph.json"

    def reasons(references: list[str], **keys: Any) -> list[str]:
        known = [{"path": str(bash), "references": [], "narSize": 1}]
        known.append({"path": str(tool), "references": references, "narSize": 1})
        graph.write_text(json.dumps(known), "utf-8")
        document = {
            "name": "x", "architecture": "amd64", "store_dir": str(store), "contents": [str(tool)],
            "references_graph": str(graph), "config": {"Cmd": ["tool"]}, **keys,
        }  # fmt: skip
        warnings: list[str] = []
        plan(parse_spec(json.dumps(document).encode()), warn=warnings.append)
        return warnings

    assert reasons([str(bash)]) == []
    (warning,) = reasons([])
    assert f"/bin/tool needs {bash}/bin/bash, which is not in the image" in warning
    assert reasons([], includeStorePaths=False) == []
    (tool / "bin/tool").chmod(0o644)
    (warning,) = reasons([str(bash)])
    assert "config.Cmd[0]: /bin/tool is not executable" in warning


def test_verify_says_so_and_succeeds(tmp_path: Path) -> None:
    """The archive is sound: a script that checks it must not fail."""
    path = tmp_path / "image.tar"
    path.write_bytes(Base(layers=[layer({})], config={"Cmd": ["/x"]}).docker_archive())
    ended = commandline.run([*COMMAND, "verify", path], capture_output=True, check=True)
    assert ended.stdout.decode().splitlines()[1] == (
        f"  not a fault, but: {Base(layers=[layer({})], config={'Cmd': ['/x']}).docker_members()[1]['Config']}:"
        " config.Cmd[0]: /x is not an executable file in the image; a container will not start"
    )
