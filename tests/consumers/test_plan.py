"""From a specification to a running container, with packages from a real Nix store: the assertions of nixpkgs' own
tests of `dockerTools`, one test each, and some of ours.
"""

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import stream
from stream.planning.plan import plan
from stream.planning.spec import parse_spec

from .daemons import Docker
from .images import image_config, producer
from .isolation import IsolationError, isolated
from .nix import PROGRAMS, Nix, RootedNix
from .requirements import require, unmet

_BUSYBOX: Final = "/bin/busybox"
_APPLETS: Final = ("cat", "env", "find", "id", "ls", "sh", "stat", "test", "touch")
pytestmark = [pytest.mark.consumers, pytest.mark.slow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """A Nix store with packages, and a dockerd that loads the images made of them."""

    nix: Nix
    docker: Docker
    directory: Path
    shell: str
    """A store path with a shell and its dependencies."""
    greeting: str
    """A store path that refers to the shell."""

    def plan(self, **keys: Any) -> dict[str, Any]:
        """Return the conf of a specification, planned with Nix."""
        spec = {"store_dir": self.nix.store_dir, "nix_store": None, **keys}
        with pytest.MonkeyPatch.context() as patch:
            for key, value in self.nix.environment.items():
                patch.setenv(key, value)
            parsed = parse_spec(json.dumps(spec).encode(), name="spec.json", warn=print)
            return plan(parsed, warn=print).document

    def conf(self, **keys: Any) -> Path:
        """Write that conf to a file."""
        path = self.directory / f"{keys['name'].replace('/', '-')}.json"
        path.write_text(json.dumps(self.plan(**keys)), "utf-8")
        return path

    def archive(self, **keys: Any) -> Path:
        """Write the image to a file."""
        conf = self.conf(**keys)
        path = conf.with_suffix(".tar")
        subprocess.run([*producer(conf, "-q"), "-o", str(path)], check=True)
        return path

    def load(self, **keys: Any) -> str:
        """Load the image. Returns its tag."""
        conf = self.conf(**keys)
        self.docker.load(producer(conf))
        return str(json.loads(conf.read_bytes())["repo_tag"])

    def run(self, image: str, *argv: str, options: Sequence[str] = ()) -> str:
        """Return the output of a container, which must succeed."""
        # Docker's options precede the image.
        return self.docker.output(
            "docker", "run", "--rm", "--network=none", "--pull=never", *options, image, *argv
        )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """One instance for all tests: their images have different names."""
    require([*PROGRAMS, *Docker.programs])
    if not Path(_BUSYBOX).exists():
        unmet(f"not installed: {_BUSYBOX}")
    directory = tmp_path_factory.mktemp("workshop")
    nix = Nix.below(directory / "nix")
    tools = directory / "tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "bin" / "busybox").write_bytes(Path(_BUSYBOX).read_bytes())
    (tools / "bin" / "busybox").chmod(0o755)
    for applet in _APPLETS:
        (tools / "bin" / applet).symlink_to("busybox")
    shell = nix.add(tools)
    greeting = _add(nix, directory, "greeting", {"bin/greet": f"#!{shell}/bin/sh\necho hello\n"})
    try:
        with isolated(directory) as isolation:
            yield Workshop(
                nix=nix,
                docker=Docker(isolation),
                directory=directory,
                shell=shell,
                greeting=greeting,
            )
    except IsolationError as error:
        unmet(str(error))


def _add(nix: Nix, directory: Path, name: str, files: dict[str, str]) -> str:
    """Add a store path of files, with the references in them."""
    source = directory / "source" / name
    for file, content in files.items():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text(content, "utf-8")
        (source / file).chmod(0o755)
    added = nix.add(source)
    found = {*re.findall(rf"{re.escape(nix.store_dir)}/[0-9a-z]{{32}}-[a-z]+", str(files))}
    # Only a build makes Nix scan for references; --add does not.
    listed = " ".join(f"(builtins.storePath {path})" for path in found)
    code = f"""derivation {{
      name = "{name}"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      args = ["-c" "cp -r ${{builtins.storePath {added}}} $out"]; inputs = [{listed}]; }}"""
    return nix.run("nix-build", "--quiet", "--no-out-link", "--expr", code).strip()


@pytest.fixture(scope="module")
def shell_image(workshop: Workshop) -> str:
    """Return the specification of an image with a shell, and little else."""
    return workshop.load(name="shell", contents=[workshop.shell], config={"Cmd": ["/bin/sh"]})


def test_three_commands(workshop: Workshop) -> None:
    """The README's first three commands lead to a running container, as they are printed there."""
    readme = Path(__file__).parents[2] / "README.md"
    echo, planned, _ = re.findall(r"^ {4}(.*)$", readme.read_text("utf-8"), re.MULTILINE)[2:5]
    echo = echo.replace("/nix/store/…-hello", workshop.greeting)
    echo = echo.replace("/nix/store/…-bash", workshop.shell).replace("/bin/hello", "/bin/greet")
    echo = echo.replace('{"name"', f'{{"store_dir": "{workshop.nix.store_dir}", "name"')
    assert planned == "stream-image plan spec.json | stream-image - | docker load"
    command = f"{sys.executable} -m stream"
    commands = f"cd {workshop.directory} && {echo} && {command} plan spec.json | {command} -"
    environment = (f"{key}={value}" for key, value in workshop.nix.environment.items())
    loaded = workshop.docker.load(["env", *environment, "bash", "-c", commands])
    assert "hello:latest" in loaded.images
    assert workshop.run("hello:latest") == "hello\n"


def test_store_below_another_root(workshop: Workshop) -> None:
    """A store in one's own directory works, although this machine has no /nix."""
    nix = RootedNix.below(workshop.directory / "rooted")
    shell = nix.add(workshop.directory / "tools")
    script = workshop.directory / "rooted" / "greeting" / "bin" / "greet"
    script.parent.mkdir(parents=True)
    script.write_text(f"#!{shell}/bin/sh\necho from below\n", "utf-8")
    script.chmod(0o755)
    greeting = nix.add(script.parent.parent, shell)
    assert not Path(greeting).exists()
    spec = {
        "name": "rooted", "tag": "1", "nix_store": str(nix.root), "contents": [greeting],
        "copyToRoot": [shell], "keepContentsDirlinks": True, "fakeRootCommands": f"cp {greeting}/bin/greet /own",
        "enableFakechroot": True, "config": {"Cmd": ["/bin/greet"]},
    }  # fmt: skip
    (workshop.directory / "rooted.json").write_text(json.dumps(spec), "utf-8")
    environment = (f"{key}={value}" for key, value in nix.environment.items())
    command = f"{sys.executable} -m stream"
    pipe = f"cd {workshop.directory} && {command} plan rooted.json | {command} -"
    workshop.docker.load(["env", *environment, "bash", "-c", pipe])
    assert workshop.run("rooted:1") == "from below\n"
    assert workshop.run("rooted:1", "/own") == "from below\n"
    assert "busybox" in workshop.run("rooted:1", "/bin/ls", "/bin")


def test_closure_comes_along(workshop: Workshop) -> None:
    """The closure of contents is in the image: a script finds its interpreter."""
    image = workshop.load(name="closure", contents=[workshop.greeting])
    assert workshop.run(image, "/bin/greet") == "hello\n"


def test_created(workshop: Workshop) -> None:
    """`created` is 1970-01-01T00:00:01Z, so that images are reproducible, unless it is `now`."""
    keys = {"contents": [workshop.shell]}
    fixed = image_config(workshop.archive(name="created", **keys))
    now = image_config(workshop.archive(name="created-now", created="now", **keys))
    assert fixed["created"] == "1970-01-01T00:00:01+00:00"
    assert now["created"] > "2024"


@pytest.mark.parametrize("tag", [None, "v7"])
def test_tag_is_the_one_loaded(workshop: Workshop, tag: str | None) -> None:
    """The conf's tag, given or derived, is the name of the image in docker."""
    conf = workshop.conf(name="tagged", tag=tag, contents=[workshop.shell])
    loaded = workshop.docker.load(producer(conf))
    assert json.loads(conf.read_bytes())["repo_tag"] in loaded.images


def test_registry_in_the_name(workshop: Workshop) -> None:
    """A name may begin with a registry."""
    image = workshop.load(name="registry.example/team/x", tag="1", contents=[workshop.shell])
    assert image == "registry.example/team/x:1"
    assert image in workshop.docker.images()


def test_store_directories(workshop: Workshop, shell_image: str) -> None:
    """Every parent directory of the store is 0755, so an unprivileged user can run programs in it."""
    store = Path(workshop.nix.store_dir)
    above = [str(path) for path in (store, *store.parents)]
    modes = workshop.run(shell_image, "/bin/stat", "-c", "%a", *above)
    assert {*modes.split()} == {"755"}
    found = workshop.run(shell_image, f"{workshop.shell}/bin/id", "-u", options=["--user", "1234"])
    assert found == "1234\n"


def test_without_store_paths(workshop: Workshop) -> None:
    """The image has no store paths, and it works where the host mounts its store."""
    keys: dict[str, Any] = {"contents": [workshop.greeting], "includeStorePaths": False}
    archive = workshop.archive(name="without", **keys)
    root = subprocess.run(
        [sys.executable, "-m", "stream", "export", "-q", str(archive), "-o", f"{archive}.root"],
        check=True,
    )
    assert root.returncode == 0
    with tarfile.open(f"{archive}.root") as tar:
        assert not [name for name in tar.getnames() if workshop.nix.store_dir.strip("/") in name]
    image = workshop.load(name="without", **keys)
    store = workshop.nix.store_dir
    mounted = workshop.run(image, "/bin/greet", options=[f"--volume={store}:{store}:ro"])
    assert mounted == "hello\n"


def test_two_images_share_layers(workshop: Workshop) -> None:
    """The layers shared by two images are stored and sent once."""
    one = workshop.archive(name="share-one", contents=[workshop.greeting])
    two = workshop.archive(name="share-two", contents=[workshop.greeting, "fakeNss"])
    layers = [{*image_config(archive)["rootfs"]["diff_ids"]} for archive in (one, two)]
    assert len(layers[0] & layers[1]) == len(layers[0]) - 1  # except the customisation layer


def test_two_layers(workshop: Workshop) -> None:
    """The smallest maxLayers works."""
    image = workshop.load(name="two", contents=[workshop.greeting], maxLayers=2)
    assert workshop.run(image, "/bin/greet") == "hello\n"


def test_chain(workshop: Workshop) -> None:
    """Three images on top of each other keep their order: the upper file wins, and Env is merged."""
    lower = workshop.archive(
        name="lower", tag="1", contents=[workshop.shell], extraCommands="echo lower > who",
        config={"Env": ["A=lower", "B=lower"]},
    )  # fmt: skip
    middle = workshop.archive(
        name="middle", tag="1", fromImage=str(lower), extraCommands="echo middle > who"
    )
    image = workshop.load(
        name="upper", fromImage=str(middle), extraCommands="echo upper > who", config={"Env": ["B=upper"]}
    )  # fmt: skip
    assert workshop.run(image, "/bin/cat", "/who") == "upper\n"
    variables = workshop.run(image, "/bin/env").splitlines()
    assert {"A=lower", "B=upper"} <= {*variables}


def test_architecture(workshop: Workshop) -> None:
    """The architecture is the given one."""
    keys: dict[str, Any] = {"contents": [workshop.shell], "architecture": "arm64"}
    assert image_config(workshop.archive(name="arm", **keys))["architecture"] == "arm64"


def test_store_path_that_is_a_link(workshop: Workshop) -> None:
    """A symlink stays one, and points to its target in the container."""
    code = f"""derivation {{
      name = "current"; system = builtins.currentSystem; builder = "/bin/sh"; PATH = "/usr/bin:/bin";
      args = ["-c" "ln -s ${{builtins.storePath {workshop.greeting}}} $out"]; }}"""
    current = workshop.nix.run("nix-build", "--quiet", "--no-out-link", "--expr", code).strip()
    image = workshop.load(name="link", contents=[workshop.shell], config={"Cmd": [current]})
    found = workshop.run(image, "/bin/stat", "-c", "%F %N", current)
    assert found == f"symbolic link '{current}' -> '{workshop.greeting}'\n"
    assert workshop.run(image, f"{current}/bin/greet") == "hello\n"


def test_fake_root_ownership(workshop: Workshop) -> None:
    """Owners and files from fakeRootCommands are in the image."""
    commands = "mkdir -p srv/data; chown 1000:1001 srv/data; chmod 2750 srv/data; mknod null c 1 3"
    image = workshop.load(
        name="owned",
        contents=[workshop.shell],
        fakeRootCommands=commands,
        extraCommands="mkdir srv",
    )
    assert workshop.run(image, "/bin/stat", "-c", "%u:%g %a", "/srv/data") == "1000:1001 2750\n"
    assert (
        workshop.run(image, "/bin/stat", "-c", "%t,%T %F", "/null")
        == "1,3 character special file\n"
    )


def test_what_only_fake_root_commands_refer_to(workshop: Workshop) -> None:
    """A program is in the image with its dependencies."""
    image = workshop.load(name="referred", fakeRootCommands=f"ln -s {workshop.greeting} opt")
    assert workshop.run(image, "/opt/bin/greet") == "hello\n"


def test_absolute_paths_under_fakechroot(workshop: Workshop) -> None:
    """Commands see the tree as the root, with the store in it."""
    commands = f"mkdir -p /srv; {workshop.shell}/bin/cat /etc/motd > /srv/copy; chown 5:5 /srv/copy"
    image = workshop.load(
        name="fakechroot", contents=[workshop.shell], extraCommands="mkdir etc; echo hi > etc/motd",
        fakeRootCommands=commands, enableFakechroot=True,
    )  # fmt: skip
    assert workshop.run(image, "/bin/cat", "/srv/copy") == "hi\n"
    assert workshop.run(image, "/bin/stat", "-c", "%u:%g", "/srv/copy") == "5:5\n"


def test_certificates(workshop: Workshop) -> None:
    """Programs of all kinds find the certificate bundle."""
    bundle = _add(
        workshop.nix, workshop.directory, "cacert", {"etc/ssl/certs/ca-bundle.crt": "trust\n"}
    )
    image = workshop.load(name="ca", contents=[workshop.shell, {"caCertificates": bundle}])
    places = (
        "/etc/ssl/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt",
    )  # fmt: skip
    assert workshop.run(image, "/bin/cat", *places) == "trust\n" * 3


def test_names_of_users(workshop: Workshop) -> None:
    """With fakeNss, and lines added to it, users have names."""
    lines = {
        "extraPasswdLines": ["app:x:1000:1000:app:/:/bin/sh"],
        "extraGroupLines": ["app:x:1000:"],
    }
    image = workshop.load(name="users", contents=[workshop.shell, {"fakeNss": lines}])
    found = workshop.run(image, "/bin/id", options=["--user", "app"])
    assert found == "uid=1000(app) gid=1000(app) groups=1000(app)\n"
    assert "65534(nobody)" in workshop.run(image, "/bin/id", options=["--user", "nobody"])


def test_shell_and_env_at_their_places(workshop: Workshop) -> None:
    """Scripts that begin with /bin/sh or /usr/bin/env run."""
    contents = [{"binSh": workshop.shell}, {"usrBinEnv": workshop.shell}]
    image = workshop.load(
        name="places", contents=contents, config={"Env": [f"PATH={workshop.shell}/bin"]}
    )
    assert workshop.run(image, "/bin/sh", "-c", "/usr/bin/env sh -c 'exit 0' && echo ok") == "ok\n"


def test_tmp(workshop: Workshop) -> None:
    """Everybody can write to a /tmp made with that mode."""
    image = workshop.load(name="tmp", contents=[workshop.shell], directories={"/tmp": "1777"})
    found = workshop.run(
        image, "/bin/sh", "-c", "touch /tmp/x && stat -c %a /tmp", options=["--user", "5", "--env=PATH=/bin"]
    )  # fmt: skip
    assert found == "1777\n"


def test_owner_of_store_files(workshop: Workshop) -> None:
    """An image of a non-root user runs as that user, who owns its files."""
    image = workshop.load(
        name="owner", contents=[workshop.greeting, workshop.shell], uid=1000, gid=1000, uname="app", gname="app",
        config={"User": "1000:1000"},
    )  # fmt: skip
    assert workshop.run(image, "/bin/stat", "-c", "%u:%g", workshop.greeting) == "1000:1000\n"
    assert workshop.run(image, "/bin/greet") == "hello\n"


def test_links_of_the_base_stay(workshop: Workshop) -> None:
    """A base whose /bin is a link keeps it, and its programs, when contents have a /bin."""
    base = workshop.archive(
        name="merged", tag="1", contents=[],
        extraCommands=f"mkdir -p usr/bin; cp {workshop.shell}/bin/busybox usr/bin/sh; ln -s usr/bin bin",
    )  # fmt: skip
    image = workshop.load(name="on-merged", fromImage=str(base), contents=[workshop.greeting])
    found = workshop.run(image, "/bin/sh", "-c", "test -L /bin && /usr/bin/greet && /bin/greet")
    assert found == "hello\nhello\n"


def test_nix_database(workshop: Workshop) -> None:
    """Nix finds all store paths of the image, intact, with their references."""
    image = workshop.load(name="database", contents=[workshop.greeting], includeNixDB=True)
    # The host's Nix, as the image has none.
    options = [
        f"--volume={path}:{path}:ro" for path in ("/usr", "/lib", "/lib64") if Path(path).exists()
    ]
    variables = {
        "NIX_STORE_DIR": workshop.nix.store_dir, "NIX_STATE_DIR": "/nix/var/nix", "HOME": "/tmp", "USER": "root",
    }  # fmt: skip
    options += [f"--env={key}={value}" for key, value in variables.items()]
    ask = ("/usr/bin/nix-store", "--option", "build-users-group", "")
    workshop.run(image, *ask, "--verify", "--check-contents", options=options)
    found = workshop.run(image, *ask, "--query", "--requisites", workshop.greeting, options=options)
    assert {*found.split()} == {workshop.greeting, workshop.shell}
    roots = workshop.run(image, *ask, "--gc", "--print-roots", options=options)
    assert workshop.greeting in roots


def test_what_is_written_is_what_was_planned(workshop: Workshop) -> None:
    """The layers of the archive are those of the conf, each path once."""
    conf = workshop.conf(name="layers", contents=[workshop.greeting])
    planned = stream.load_conf(conf)
    archive = workshop.archive(name="layers", contents=[workshop.greeting])
    assert len(image_config(archive)["rootfs"]["diff_ids"]) == len(planned.store_layers) + 1
