"""`make demo`: build and run an image of the running Python, from several store paths.

Assembles a small store below `.demo` (interpreter, shared libraries, standard library, a
program), writes a specification and the references graph, plans the layers, streams the
image to a file, checks the file, and runs the image in a chroot if that is allowed.
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
    """Return the libraries that the dynamic loader loads for `program`, and the loader."""
    text = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
    return {Path(path) for path in re.findall(r"(/\S+)", text)}


def assemble() -> tuple[dict[Path, list[Path]], dict[str, object]]:
    """Fill the store. Return the references of each of its paths, and the container config."""
    shutil.rmtree(HERE, ignore_errors=True)
    interpreter = Path(os.path.realpath(sys.executable))
    libraries, python, stdlib, hello = (
        STORE / f"{letter * 32}-{name}"
        for letter, name in zip(
            "lpsh", ("libraries", "python", "python-stdlib", "hello"), strict=True
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
    (hello / "share" / "hello").mkdir(parents=True)
    (hello / "share" / "hello" / "hello.py").write_text(f"{GREETING}\n")

    references = {libraries: [], stdlib: [libraries], python: [libraries, stdlib], hello: [python]}
    command = [f"{libraries}/{loader}", "--library-path", f"{libraries}", f"{python}/bin/python3"]
    return references, {
        "Cmd": [*command, "/share/hello/hello.py"],  # a link in the image's root to the store path
        "Env": [f"PYTHONHOME={stdlib}"],
    }


def plan(references: dict[Path, list[Path]], config: dict[str, object]) -> Path:
    """Write the specification, plan it, and return the path of the conf."""
    graph = [
        {
            "path": str(path),
            "references": [str(other) for other in others],
            "narSize": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        }
        for path, others in references.items()
    ]
    (HERE / "graph.json").write_text(json.dumps(graph, indent=2) + "\n")
    spec = {
        "name": "stream-image-demo",
        "tag": "latest",
        "contents": [str(path) for path in references if path.name.endswith("-hello")],
        "config": config,
        "store_dir": str(STORE),
        "references_graph": str(HERE / "graph.json"),
    }
    (HERE / "spec.json").write_text(json.dumps(spec, indent=2) + "\n")
    conf = HERE / "conf.json"
    subprocess.run(
        [sys.executable, "-m", "stream", "plan", HERE / "spec.json", "-o", conf], check=True
    )
    return conf


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


def run(archive: Path, config: dict[str, object]) -> None:
    """Unpack the layers and run the command in a chroot, if that is allowed."""
    root = HERE / "root"
    root.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            if member.name.endswith("/layer.tar"):
                layer = tar.extractfile(member)
                assert layer is not None
                # Debian's Python 3.11.2 would extract absolute names outside the directory.
                unpack = ["tar", "--extract", "--directory", str(root)]
                subprocess.run(unpack, input=layer.read(), capture_output=True, check=True)
    user_namespace = ["unshare", "--user", "--map-root-user"] if os.geteuid() else []
    if subprocess.run([*user_namespace, "true"], capture_output=True, check=False).returncode:
        print("Not run: without root this needs user namespaces, which are not allowed here")
        return
    command, environment = config["Cmd"], config["Env"]
    assert isinstance(command, list)
    assert isinstance(environment, list)
    result = subprocess.run(
        [*user_namespace, "chroot", root, *command],
        # Debian's PATH for ordinary users lacks the directory of chroot.
        env={"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin", **dict(item.split("=", 1) for item in environment)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise SystemExit(f"demo: the image did not run: {result.stderr.strip()}")
    print(result.stdout.strip())


def main() -> None:
    """Assemble, plan, stream, check and run the image, and print how to load it."""
    print(f"Copying Python into a store below {HERE.name} ...", flush=True)
    references, config = assemble()
    print("Planning and streaming its image ...", flush=True)
    conf, archive = plan(references, config), HERE / "image.tar"
    with archive.open("wb") as file:
        image = stream.write_image(stream.load_conf(conf), file)
    check(archive, image)
    print(f"{archive.relative_to(HERE.parent)}: {image.image_id}, {len(image.layers)} layers")
    run(archive, config)
    shown = (HERE / "spec.json").relative_to(HERE.parent)
    print("Load and run it:")
    print(f"  .venv/bin/stream-image plan {shown} | .venv/bin/stream-image - | docker load")
    print("  docker run --rm stream-image-demo:latest")


if __name__ == "__main__":
    main()
