"""`files` in a specification, from its file to the image."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import commandline
import pytest
from handmade import Base, tar_of
from support import COMMAND

import stream
from stream.model import ImageConf
from stream.tools.planned import load_confs

NEEDS_SANDBOX = pytest.mark.skipif(
    not shutil.which("bwrap") or not shutil.which("fakeroot"), reason="needs bubblewrap, fakeroot"
)


class Project:
    """A checkout: a specification beside the application that it names."""

    def __init__(self, directory: Path, *, mode: int = 0o755, **keys: Any) -> None:
        self.directory = directory
        self.app = directory / "app"
        (self.app / "pkg").mkdir(parents=True)
        # The order in which a file system lists entries is often that in which they were made.
        names = ["main", "pkg/a", "pkg/b"]
        for name in names if mode & 0o077 else reversed(names):
            (self.app / name).write_text(f"{name}\n", "ascii")
            (self.app / name).chmod(mode if name == "main" else mode & 0o666)
        self.spec = directory / "spec.json"
        self.write(**keys)

    def write(self, **keys: Any) -> None:
        """Write the specification."""
        document = {"name": "app", "architecture": "amd64", "files": {"/srv/app": "app"}, **keys}
        self.spec.write_text(json.dumps(document), "utf-8")

    def conf(self) -> ImageConf:
        """Plan the image, which causes no warnings."""
        (conf,) = load_confs(str(self.spec), warn=pytest.fail)
        return conf

    def entries(self) -> dict[str, tarfile.TarInfo]:
        """Return the entries of the image's last layer, by name."""
        archive = io.BytesIO()
        image = stream.write_image(self.conf(), archive)
        archive.seek(0)
        with tarfile.open(fileobj=archive) as tar:
            content = tar.extractfile(image.layers[-1].archive_name)
            with tarfile.open(fileobj=content) as layer:
                return {entry.name: entry for entry in layer}


def image_of(conf: ImageConf) -> tuple[str | None, str]:
    """Return the tag and the image ID of a conf."""
    return conf.repo_tag, stream.write_image(conf, io.BytesIO()).image_id


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Make a checkout."""
    return Project(tmp_path / "checkout")


def test_two_checkouts_are_the_same_image(project: Project, tmp_path: Path) -> None:
    """Where a project is, who has it, when it was fetched and with what umask must not matter."""
    other = Project(tmp_path / "some where" / "else", mode=0o700)
    for path in other.directory.rglob("*"):
        os.utime(path, (1, 1))
    (other.app / "pkg").chmod(0o700)
    assert image_of(other.conf()) == image_of(project.conf())


@pytest.mark.parametrize("name", ["main", "pkg/b"])
def test_a_change_is_another_image(project: Project, name: str) -> None:
    """A derived tag that stays would never be deployed."""
    tag, image_id = image_of(project.conf())
    (project.app / name).write_text("changed", "ascii")
    assert not {tag, image_id} & {*image_of(project.conf())}


@pytest.mark.parametrize(
    "verb",
    [["inspect", "--json"], ["digests"], ["plan"], ["explain", "--json"], ["sbom"], ["-q"]],
    ids=lambda verb: str(verb[0]),
)
def test_paths_start_from_the_specification(project: Project, verb: list[str]) -> None:
    """A specification means the same wherever the command is called."""
    done = commandline.run(
        [*COMMAND, *verb, project.spec], cwd="/", capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_paths_on_standard_input_start_from_the_current_directory(project: Project) -> None:
    """A pipe is nowhere."""
    data = project.spec.read_bytes()
    for name, piped in (("-", {"input": data}), ("/dev/stdin", {"input": data})):
        done = commandline.run(
            [*COMMAND, "plan", name],
            cwd=project.directory,
            capture_output=True,
            check=True,
            **piped,
        )
        found = json.loads(done.stdout)["customisation_layer"]["files"]
        assert found == {"/srv/app": str(project.app)}
    done = commandline.run([*COMMAND, "plan", "-"], input=data, cwd="/", capture_output=True)
    assert done.returncode != 0
    assert b'files["/srv/app"]: /app: no such file' in done.stderr


def test_a_conf_is_the_same_image(project: Project) -> None:
    """What `plan` writes streams as the specification does."""
    project.write(
        files={
            "/srv/app": {"path": "app", "exclude": ["b"], "uid": 5, "gid": 6},
            "/run": {"text": "x", "mode": "0700"},
        }
    )
    planned = commandline.run([*COMMAND, "plan", project.spec], capture_output=True, check=True)
    conf = stream.parse_conf(planned.stdout, warn=pytest.fail)
    assert image_of(conf) == image_of(project.conf())
    found = {name: (entry.mode, entry.uid, entry.gid) for name, entry in project.entries().items()}
    assert found["./srv/app/pkg/a"] == (0o644, 5, 6)
    assert found["./run"] == (0o700, 0, 0)
    assert "./srv/app/pkg/b" not in found


def test_a_file_that_is_gone(project: Project) -> None:
    """A conf whose files are gone is reported before the first byte."""
    planned = commandline.run([*COMMAND, "plan", project.spec], capture_output=True, check=True)
    shutil.rmtree(project.app)
    with pytest.raises(stream.ConfError, match=r'layer\.files\["/srv/app"\]: .*no such file'):
        stream.parse_conf(planned.stdout)


def test_links_of_the_base_image(project: Project) -> None:
    """A directory put where the base has a link to one must not hide what that has."""
    link = tarfile.TarInfo("srv")
    link.type, link.linkname = tarfile.SYMTYPE, "data"
    layer = tar_of([("data/more", b"1"), ("srv", link)])
    (project.directory / "base.tar").write_bytes(Base(layers=[layer]).docker_archive())
    project.write(fromImage="base.tar")
    assert "./data/app/main" in project.entries()


@NEEDS_SANDBOX
def test_commands_find_the_files(project: Project) -> None:
    """Commands can build on the application, and leave the owners that it was given."""
    project.write(
        files={"/srv/app": {"path": "app", "uid": 1000, "gid": 1000}},
        fakeRootCommands="cat srv/app/main > copy; stat -c %u srv/app/pkg/a > owner",
    )
    found = project.entries()
    assert found["./copy"].size == found["./srv/app/main"].size
    assert found["./owner"].size == len("1000\n")
    assert found["./srv/app/pkg/a"].uid == 1000


def test_store_paths_that_files_mention(project: Project) -> None:
    """A script whose interpreter is in the store must find it in the image."""
    tool = project.directory / "store" / f"{'a' * 32}-tool"
    (tool / "bin").mkdir(parents=True)
    (tool / "bin" / "tool").write_text("x", "ascii")
    (project.app / "main").write_text(f"#!{tool}/bin/tool\n", "ascii")
    project.write(store_dir=str(tool.parent))
    assert os.fsencode(tool) in project.conf().store_paths


def test_explain_against_an_earlier_conf(project: Project) -> None:
    """Files have no hash in their names: that they stay is not known without reading them."""
    earlier = project.directory / "old.json"
    project.write(tag="1")
    commandline.run([*COMMAND, "plan", project.spec, "-o", earlier], check=True)
    done = commandline.run(
        [*COMMAND, "explain", "--json", project.spec, "--against", earlier],
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["layers"][0]["stays"] is None


def test_an_sbom_says_what_it_lacks(project: Project) -> None:
    """A scanner that finds nothing in an application must not take it for safe."""
    done = commandline.run([*COMMAND, "sbom", project.spec], capture_output=True, check=True)
    assert b"what is in the files of the specification (1)" in done.stdout


def test_an_unreadable_file(project: Project, without_privilege: list[str]) -> None:
    """It is found before the first byte, and the message says what can be done."""
    (project.app / "main").chmod(0)
    project.write(tag="1")
    command = [*without_privilege, *COMMAND, "plan", str(project.spec)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert f"{project.app}/main: cannot be read" in done.stderr.decode()
    project.write(tag="1", files={"/srv/app": {"path": "app", "exclude": ["/main"]}})
    subprocess.run(command, capture_output=True, check=True)
    (project.app / "pkg").chmod(0)
    done = subprocess.run(command, capture_output=True, check=False)
    assert f"{project.app}/pkg: cannot be read" in done.stderr.decode()
    (project.app / "pkg").chmod(0o755)
