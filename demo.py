"""`make demo`: an image of the Python that runs this, from several store paths.

Assembles a small store below `.demo` (interpreter, shared libraries, standard
library), writes its conf, streams it to a file, checks the file, and runs the
image in a chroot where that is allowed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import stream

HERE = Path(__file__).resolve().parent / ".demo"
STORE = HERE / "store"
SKIPPED = shutil.ignore_patterns(
    "__pycache__", "test", "tests", "site-packages", "dist-packages", "*.a"
)
GREETING = "import sys, json; print('Hello from Python', sys.version.split()[0], 'in', __file__)"


def shared_libraries(program: Path) -> set[Path]:
    """What the dynamic loader would load for `program`, loader included."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+)", text)}


def assemble() -> tuple[list[list[str]], list[str]]:
    """Fill the store. Returns the layers and the command that the image runs."""
    shutil.rmtree(HERE, ignore_errors=True)
    interpreter = Path(os.path.realpath(sys.executable))
    libraries, python, stdlib, greeting = (
        STORE / f"{letter * 32}-{name}"
        for letter, name in zip(
            "lpsg", ("libraries", "python", "python-stdlib", "hello"), strict=True
        )
    )
    source = Path(sysconfig.get_path("stdlib"))
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"

    shutil.copytree(source, stdlib / "lib" / version, ignore=SKIPPED)
    (python / "bin").mkdir(parents=True)
    shutil.copy2(interpreter, python / "bin" / "python3")
    libraries.mkdir()
    wanted = shared_libraries(interpreter)
    for extension in (source / "lib-dynload").glob("*.so"):
        wanted |= shared_libraries(extension)
    for library in wanted:
        shutil.copy2(library, libraries / library.name)
    loader = next(path.name for path in wanted if path.name.startswith("ld-"))
    greeting.mkdir()
    (greeting / "hello.py").write_text(GREETING.replace("__file__", repr("a container")) + "\n")

    command = [
        f"{libraries}/{loader}", "--library-path", str(libraries),
        f"{python}/bin/python3", f"{greeting}/hello.py",
    ]  # fmt: skip
    return [[str(libraries)], [str(stdlib)], [str(python), str(greeting)]], command


def check(archive: Path, image: stream.Image) -> None:
    """Read the archive with another tar implementation and compare."""
    with tarfile.open(archive) as tar:
        manifest_file = tar.extractfile("manifest.json")
        assert manifest_file is not None
        (manifest,) = json.load(manifest_file)
        for layer in image.layers:
            assert tar.getmember(layer.archive_name).size == layer.size
    if manifest["Config"] != image.image_id.removeprefix("sha256:") + ".json":
        raise SystemExit("demo: the archive's manifest does not name the image")


def run(archive: Path, command: list[str], python_home: str) -> None:
    """Unpack the layers and run the command in a chroot, if that is allowed."""
    root = HERE / "root"
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith("/layer.tar"):
                layer = tar.extractfile(member)
                with tarfile.open(fileobj=layer) as inner:
                    inner.extractall(root, filter="tar")
    user_namespace = ["unshare", "--user", "--map-root-user"] if os.geteuid() else []
    result = subprocess.run(
        [*user_namespace, "chroot", root, *command],
        env={"PYTHONHOME": python_home, "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"demo: the image did not run: {result.stderr.strip()}")
    print(result.stdout.strip())


def main() -> None:
    """Assemble, stream, check, run, and say how to load it."""
    layers, command = assemble()
    python_home = layers[1][0]
    conf = {
        "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64",
        "config": {"Cmd": command, "Env": [f"PYTHONHOME={python_home}"]},
        "repo_tag": "stream-image-demo:latest",
        "store_dir": str(STORE),
        "store_layers": layers,
    }
    conf_file, archive = HERE / "conf.json", HERE / "image.tar"
    conf_file.write_text(json.dumps(conf, indent=2) + "\n")
    with archive.open("wb") as file:
        image = stream.write_image(stream.load_conf(conf_file), file)
    check(archive, image)
    print(f"{archive.relative_to(HERE.parent)}: {image.image_id}, {len(image.layers)} layers")
    run(archive, command, python_home)
    shown = conf_file.relative_to(HERE.parent)
    print("Load and run it:")
    print(f"  .venv/bin/stream-image {shown} | docker load")
    print(f"  docker run --rm {conf['repo_tag']}")


if __name__ == "__main__":
    main()
