"""`stream-image digests`: what a builder hashes, for machines that then need not."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

from commandline import run
from support import COMMAND, Store


def test_digests_are_those_of_the_image(tmp_path: Path) -> None:
    """A digest of other bytes would make a registry's layer stand for one that it is not."""
    store = Store.below(tmp_path)
    store.file("abc-app/bin/app", b"app")
    store.file("def-lib/lib", 5000)
    conf = store.conf(["def-lib"], ["abc-app"])
    archive = run([*COMMAND, conf], check=True, capture_output=True).stdout
    printed = run([*COMMAND, "digests", conf], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = {member.name: tar.extractfile(member) for member in tar.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    (manifest,) = json.loads(contents["manifest.json"])
    assert json.loads(printed) == {
        "image_id": f"sha256:{hashlib.sha256(contents[manifest['Config']]).hexdigest()}",
        "layers": [
            {
                "name": name,
                "diff_id": f"sha256:{hashlib.sha256(contents[name]).hexdigest()}",
                "size": len(contents[name]),
                "key": None,
            }
            for name in manifest["Layers"]
        ],
    }
    # In Nix, a name would be a reference to what the file must not keep alive.
    assert b"abc-app" not in printed
    assert b"test" not in printed
