"""Users and groups added to those of a base image."""

import io
import json
import shutil
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from handmade import Base, Entry, link, tar_of

import stream
from stream.config import conf_document, parse_conf
from stream.errors import ConfError, RecipeError

ROOT = "root:x:0:0:root:/root:/bin/bash"
WWW = "www-data:x:33:33:www:/var/www:/usr/sbin/nologin"
PASSWD = f"# kept\n{ROOT}\n{WWW}\n+::::::\n"
GROUP = "root:x:0:\nwww-data:x:33:\n"
WEB: dict[str, Any] = {"users": {"web": {"uid": 1000}}, "groups": {"web": {"gid": 1000}}}

NEEDS_SANDBOX = pytest.mark.skipif(not shutil.which("bwrap"), reason="needs bubblewrap")

Write = Callable[..., dict[str, tarfile.TarInfo]]


class Built:
    """A customisation layer: its text files, and their headers."""

    def __init__(self, layer: bytes) -> None:
        self.text: dict[str, str] = {}
        self.info: dict[str, tarfile.TarInfo] = {}
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            for info in tar:
                name = info.name.removeprefix("./")
                self.info[name] = info
                if info.isfile() and (content := tar.extractfile(info)):
                    self.text[name] = content.read().decode()


Build = Callable[..., Built]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that builds the layer of a recipe above a base image's files."""

    def built(
        files: Mapping[str, str | tarfile.TarInfo] | None = None,
        warnings: list[str] | None = None,
        **recipe: Any,
    ) -> Built:
        document: dict[str, Any] = {"repo_tag": "x:1", "customisation_layer": recipe}
        if files is not None:
            entries: list[Entry] = [
                (name, what.encode() if isinstance(what, str) else what)
                for name, what in files.items()
            ]
            base = tmp_path / "base.tar"
            base.write_bytes(Base(layers=[tar_of(entries)]).docker_archive())
            document["from_image"] = str(base)
        conf = parse_conf(json.dumps(document).encode())
        archive = io.BytesIO()
        observer = _Warnings() if warnings is None else _Warnings(warnings)
        image = stream.write_image(conf, archive, observer)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            content = tar.extractfile(image.layers[-1].archive_name)
            assert content
            return Built(content.read())

    return built


class _Warnings(stream.Observer):
    def __init__(self, found: list[str] | None = None) -> None:
        self._found = found

    def warning(self, message: str) -> None:
        assert self._found is not None, message
        self._found.append(message)


def test_users_join_those_of_the_base(build: Build) -> None:
    """A program's user must not cost the base image the users that its own files belong to."""
    made = build({"etc/passwd": PASSWD, "etc/group": GROUP}, **WEB)
    assert made.text == {
        "etc/passwd": f"{PASSWD}web:x:1000:1000::/:/bin/sh\n",
        "etc/group": f"{GROUP}web:x:1000:\n",
    }


def test_users_without_a_base(build: Build) -> None:
    """There need be no files yet."""
    web = {"uid": 7, "gid": 8, "home": "/srv", "shell": "/bin/web", "comment": "Wéb"}
    made = build(users={"web": web, "a": {"uid": 9}}, groups={"web": {"gid": 8, "members": ["a"]}})
    assert made.text == {
        "etc/passwd": "web:x:7:8:Wéb:/srv:/bin/web\na:x:9:9::/:/bin/sh\n",
        "etc/group": "web:x:8:a\n",
    }
    assert made.info["etc/passwd"].mode == 0o644


def test_shadow_of_the_base(build: Build) -> None:
    """Where there is a shadow file, login programs want every user in it, and its mode kept."""
    shadow = tarfile.TarInfo()
    shadow.mode, shadow.gid = 0o640, 42
    files = {"etc/passwd": PASSWD, "etc/shadow": shadow, "etc/gshadow": "root:*::\n"}
    made = build(files, **WEB)
    assert made.text["etc/shadow"] == "web:!:::::::\n"
    assert (made.info["etc/shadow"].mode, made.info["etc/shadow"].gid) == (0o640, 42)
    assert made.text["etc/gshadow"] == "root:*::\nweb:!::\n"


def test_users_join_those_of_the_tree(build: Build, tmp_path: Path) -> None:
    """Contents can have users of their own, copied, built in or linked."""
    made = build(contents=["fakeNss"], **WEB)
    names = [line.split(":")[0] for line in made.text["etc/passwd"].splitlines()]
    assert names == ["root", "nobody", "web"]
    (tmp_path / "own" / "etc").mkdir(parents=True)
    (tmp_path / "own" / "etc" / "passwd").write_text("own:x:5:5::/:/bin/sh\n")
    made = build({"etc/passwd": PASSWD}, copy_to_root=[str(tmp_path / "own")], **WEB)
    assert made.text["etc/passwd"] == (
        f"{PASSWD}own:x:5:5::/:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n"
    )


def test_users_join_those_of_a_linked_content(tmp_path: Path) -> None:
    """Nixpkgs' fakeNss is a store path, whose files are linked."""
    path = tmp_path / "store" / "nss" / "etc"
    path.mkdir(parents=True)
    (path / "passwd").write_text(f"{ROOT}\n")
    document = {
        "repo_tag": "x:1", "store_dir": str(tmp_path / "store"),
        "customisation_layer": {"contents": [str(path.parent)], "users": {"web": {"uid": 5}}},
    }  # fmt: skip
    image = io.BytesIO()
    stream.write_image(parse_conf(json.dumps(document).encode()), image)
    assert f"{ROOT}\nweb:x:5:5::/:/bin/sh\n".encode() in image.getvalue()


@NEEDS_SANDBOX
def test_commands_see_the_users(build: Build) -> None:
    """Commands set owners by name, and may change what is there."""
    made = build({"etc/passwd": PASSWD}, extra_commands="grep web etc/passwd > found", **WEB)
    assert made.text["found"] == "web:x:1000:1000::/:/bin/sh\n"


def test_the_same_user_declared_again(build: Build) -> None:
    """A user can be given another home or shell."""
    made = build({"etc/passwd": PASSWD}, users={"www-data": {"uid": 33, "home": "/srv"}})
    assert made.text["etc/passwd"] == PASSWD.replace(WWW, "www-data:x:33:33::/srv:/bin/sh")


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        (
            {"users": {"www-data": {"uid": 1}}},
            "users.www-data: www-data has uid 1, but uid 33 in the base image; choose another uid",
        ),
        (
            {"users": {"web": {"uid": 33}}},
            "users.web: web has uid 33, which is that of www-data in the base image; choose another uid",
        ),
        (
            {"groups": {"web": {"gid": 33}}},
            "groups.web: web has gid 33, which is that of www-data in the base image; choose another gid",
        ),
        (
            {"contents": ["fakeNss"], "groups": {"nobody": {"gid": 1}}},
            "groups.nobody: nobody has gid 1, but gid 65534 in fakeNss; choose another gid",
        ),
        (
            {
                "contents": [{"fakeNss": {"extra_passwd_lines": ["w:x:33:1::/:/bin/sh"]}}],
                "users": {"web": {"uid": 5}},
            },
            "/etc/passwd: w has uid 33, which is that of www-data in the base image; remove one of them",
        ),
    ],
)  # fmt: skip
def test_names_and_numbers_that_are_taken(build: Build, recipe: dict[str, Any], error: str) -> None:
    """Files would silently belong to another user than the recipe says."""
    with pytest.raises(RecipeError) as caught:
        build({"etc/passwd": PASSWD, "etc/group": GROUP}, **recipe)
    assert str(caught.value) == error


@pytest.mark.parametrize("big", [False, True])
def test_a_file_that_cannot_be_merged(build: Build, big: bool) -> None:  # noqa: FBT001 — a parameter of the test
    """An error is better than an image without the base's users."""
    passwd = f"{ROOT}\n" * 40_000 if big else link("../run/passwd")
    with pytest.raises(RecipeError, match=r"/etc/passwd: is a link or larger than 1048576 bytes"):
        build({"etc/passwd": passwd}, **WEB)
    assert build({"etc/passwd": passwd}, warnings=[], contents=["fakeNss"])


@NEEDS_SANDBOX
def test_users_that_a_content_replaces_are_reported(build: Build) -> None:
    """`fakeNss` takes away the users that the base image's programs run as, without a word."""
    warnings: list[str] = []
    advice = 'use "users" and "groups" instead'
    files = {"etc/passwd": PASSWD, "etc/group": GROUP}
    build(files, warnings, contents=["fakeNss"])
    assert warnings == [
        f"/etc/{name}: fakeNss replaces the base image's, whose {what} are lost: www-data; {advice}"
        for name, what in (("passwd", "users"), ("group", "groups"))
    ]
    warnings.clear()
    build(files, warnings, contents=["shadowSetup"])
    build(files, warnings, contents=["fakeNss"], **WEB)
    build({"etc/passwd": f"{ROOT}\n"}, warnings, contents=["fakeNss"])
    assert warnings == []
    build(files, warnings, extra_commands="mkdir etc; echo > etc/passwd")
    assert len(warnings) == 1


@pytest.mark.parametrize(
    ("recipe", "faults"),
    [
        ({"users": ["web"]}, ["users: must be an object, not a list"]),
        ({"users": {"web": 5}}, ["users.web: must be an object, not a number"]),
        ({"users": {"web": {}}}, ["users.web.uid: is missing"]),
        ({"users": {"w:b": {"uid": 1}, "7": {"uid": 2}}}, [
            "users: '7' is not a name that users and groups can have",
            "users: 'w:b' is not a name that users and groups can have",
        ]),
        ({"users": {"a": {"uid": 1}, "b": {"uid": 1}}}, ["users.b.uid: 1 is that of a as well"]),
        ({"users": {"a": {"uid": 1, "home": "srv"}}},
         ["users.a.home: 'srv' is not an absolute path"]),
        ({"users": {"a": {"uid": 1, "comment": "a:b"}}},
         ["users.a.comment: has a colon or a line break, which passwd(5) cannot hold"]),
        ({"users": {"a": {"uid": 1, "hom": "/"}}},
         ['users.a.hom: unknown key (did you mean "home"?)']),
        ({"groups": {"a": {"gid": 1, "members": ["a,b"]}}},
         ["groups.a.members[0]: 'a,b' is not the name of a user"]),
        ({"groups": {"a": {"gid": -1}}},
         ["groups.a.gid: must be a number from 0 to 4294967294, not -1"]),
    ],
)  # fmt: skip
def test_faults(recipe: dict[str, Any], faults: list[str]) -> None:
    """One wrong line makes every program that reads the file fail."""
    with pytest.raises(ConfError) as caught:
        parse_conf(json.dumps({"repo_tag": "x:1", "customisation_layer": recipe}).encode())
    assert [f"{place}: {what}" for place, what in caught.value.faults] == [
        f"customisation_layer.{fault}" for fault in faults
    ]


def test_written_and_read_again() -> None:
    """A conf that is written, by `plan`, is the same image."""
    web = {"uid": 7, "gid": 8, "home": "/srv", "shell": "/bin/web", "comment": "Web"}
    recipe = {"users": {"web": web, "a": {"uid": 1}}, "groups": {"g": {"gid": 3, "members": ["a"]}}}
    document = {"repo_tag": "x:1", "customisation_layer": recipe}
    conf = parse_conf(json.dumps(document).encode())
    assert parse_conf(json.dumps(conf_document(conf)).encode()) == conf
