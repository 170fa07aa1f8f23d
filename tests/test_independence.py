"""The same conf and store give the same bytes, for any user, place and environment."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trees
from parity import conf_of

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]
WriteConf = Callable[[Mapping[str, object]], str]

NAMES: Sequence[bytes] = [
    *(b"%d" % number for number in range(20)),
    b"a", b"a-b", b"B", b"b", b"\xff", "\xe9".encode(), "\U0001f600".encode(), b"\n", b"n" * 200,
]  # fmt: skip
TREE = trees.Directory(
    0o755,
    (
        *((name, trees.File(0o644, 700 * (number % 3), 1)) for number, name in enumerate(NAMES)),
        (b"a.d", trees.Directory(0o755, ((b"deep", trees.Link("ü".encode() * 60)),))),
        (b"I\xcc\x87", trees.Link(b"i")),  # where Turkish rules of case would differ
    ),
)
MORE: Mapping[str, object] = {
    "config": {"Env": ["X=ü"]},
    "uname": "ö",
    "created": "2024-03-31T02:30:00Z",
}
# Several variables at once, as each environment costs two starts of the interpreter.
ENVIRONMENTS: Sequence[Mapping[str, str]] = [
    {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    {
        "LC_ALL": "POSIX",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "TZ": "Pacific/Kiritimati",
        "PYTHONHASHSEED": "4294967295",
    },
    {"LC_ALL": "C.UTF-8", "TZ": "America/St_Johns", "PYTHONOPTIMIZE": "2"},
    {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "TZ": "XXX-23:59", "SOURCE_DATE_EPOCH": "5"},
    {"USER": "somebody", "LOGNAME": "somebody", "HOME": "/nonexistent"},
    {
        "PYTHONIOENCODING": "utf-16",
        "POSIXLY_CORRECT": "1",
        "TAR_OPTIONS": "--numeric-owner",
        "COLUMNS": "1",
    },
]


def customisation(store_dir: bytes) -> str:
    """Make a ready-made top layer in a directory whose name is not ASCII."""
    path = store_dir + "/späß".encode()
    os.mkdir(path)
    data = b"layer" * 999
    with open(path + b"/layer.tar", "wb") as file:
        file.write(data)
    with open(path + b"/checksum", "w", encoding="ascii") as file:
        file.write(hashlib.sha256(data).hexdigest())
    os.chmod(path, 0o755)
    return path.decode()


@pytest.fixture
def conf(store_dir: bytes, write_conf: WriteConf) -> str:
    """Return the path of a conf with names that not every locale can represent."""
    os.chmod(store_dir, 0o755)  # readable by other users as well
    trees.build(store_dir + "/0ü".encode(), TREE)
    path = write_conf(
        conf_of(store_dir, "0ü", customisation_layer=customisation(store_dir), **MORE)
    )
    os.chmod(path, 0o644)
    return path


@pytest.fixture
def expected(conf: str, stream_image: Run) -> bytes:
    """Return the archive written in this environment."""
    return successful(stream_image("-q", conf))


def successful(done: "subprocess.CompletedProcess[bytes]") -> bytes:
    """Return the output of a successful run."""
    assert (done.stderr, done.returncode) == (b"", 0)
    assert done.stdout
    return bytes(done.stdout)


@pytest.mark.parametrize(
    "environment", ENVIRONMENTS, ids=lambda env: " ".join(f"{k}={v}" for k, v in env.items())
)
def test_environment(
    conf: str, expected: bytes, stream_image: Run, environment: Mapping[str, str]
) -> None:
    """Locale, time zone and hash seed do not affect the image."""
    assert successful(stream_image("-q", conf, env=environment)) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("language", "charmap"),
    [
        ("en_US", "ISO-8859-1"),
        ("tr_TR", "UTF-8"),
        ("ja_JP", "EUC-JP"),
        ("ja_JP", "SHIFT_JIS"),
        ("POSIX", "ANSI_X3.4-1968"),
    ],
)
def test_foreign_locales(  # noqa: PLR0913, PLR0917 — fixtures
    store_dir: bytes, conf: str, expected: bytes, stream_image: Run, language: str, charmap: str
) -> None:
    """The same holds in locales built for this test, because they are seldom installed."""
    if not shutil.which("localedef"):
        pytest.skip("localedef is not installed")
    directory = os.fsdecode(store_dir) + "/locales"
    os.mkdir(directory)
    made = subprocess.run(
        ["localedef", "-c", "-i", language, "-f", charmap, f"{directory}/test"],
        check=False,
        capture_output=True,
        text=True,
    )
    if not os.path.exists(f"{directory}/test/LC_CTYPE"):
        pytest.skip(f"localedef cannot make it: {made.stderr.strip()}")
    foreign = {"LC_ALL": "test", "LOCPATH": directory}
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert successful(stream_image("-q", conf, env=foreign | plain)) == expected


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_umask(conf: str, expected: bytes, stream_image: Run, umask: int) -> None:
    """File modes in the image are those of the files."""
    assert successful(stream_image("-q", conf, umask=umask)) == expected


def test_working_directory(conf: str, expected: bytes, stream_image: Run) -> None:
    """Nothing is looked up relative to the working directory."""
    assert successful(stream_image("-q", conf, cwd="/")) == expected
    relative = os.path.basename(conf)
    assert successful(stream_image("-q", relative, cwd=os.path.dirname(conf))) == expected


def test_output_and_input(tmp_path: Path, conf: str, expected: bytes, stream_image: Run) -> None:
    """A pipe, a file and -o give the same bytes; so does a conf from standard input."""
    with open(tmp_path / "stdout", "wb") as file:
        subprocess.run([sys.executable, "-m", "stream", "-q", conf], check=True, stdout=file)
    assert (tmp_path / "stdout").read_bytes() == expected
    assert successful(stream_image("-q", "-", stdin=Path(conf).read_bytes())) == expected
    done = stream_image("-q", conf, "-o", str(tmp_path / "output"))
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "output").read_bytes() == expected


AS_NOBODY = """
import os, sys
from stream.cli.main import main
main([*sys.argv[1:], "-o", os.devnull])  # loads all modules: nobody may not be let to them
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def test_user(conf: str, expected: bytes) -> None:
    """Root and nobody make the same image: the user who runs the command does not affect it."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    command = [sys.executable, "-c", AS_NOBODY, "-q", conf]
    assert successful(subprocess.run(command, check=False, capture_output=True)) == expected


def test_owner_on_disk(store_dir: bytes, conf: str, expected: bytes, stream_image: Run) -> None:
    """Owners of the files do not affect the image."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    subprocess.run(["chown", "-hR", "1234:4321", store_dir], check=True)
    subprocess.run(["chmod", "--reference=/", store_dir], check=True)
    assert successful(stream_image("-q", conf)) == expected


def test_times_on_disk(store_dir: bytes, conf: str, expected: bytes, stream_image: Run) -> None:
    """Times of the files do not affect the image."""
    subprocess.run(
        ["find", store_dir, "-exec", "touch", "-hd", "2001-02-03 04:05:06.7", "{}", "+"], check=True
    )
    assert successful(stream_image("-q", conf)) == expected


@pytest.fixture
def other_file_system() -> Iterator[str]:
    """Return a directory on another file system, which lists directories in its own order."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield path


def rebuilt(store_dir: bytes, stream_image: Run, conf: str, **how: Any) -> bytes:
    """Return the archive of the same tree, rebuilt in the same place."""
    path = store_dir + "/0ü".encode()
    subprocess.run(["rm", "-rf", path], check=True)
    trees.build(path, TREE, **how)
    return successful(stream_image("-q", conf))


def test_order_on_disk(store_dir: bytes, conf: str, expected: bytes, stream_image: Run) -> None:
    """Entries are in the layer's order, not in the order of creation or of the directory's listing."""
    for order in (sorted, lambda items: list(reversed(items)), lambda items: items[7:] + items[:7]):
        assert rebuilt(store_dir, stream_image, conf, order=order) == expected


def test_hard_link_state(store_dir: bytes, conf: str, expected: bytes, stream_image: Run) -> None:
    """A store optimised by `nix-store --optimise` gives the same image."""
    assert rebuilt(store_dir, stream_image, conf, linked=True) == expected
    assert os.stat(store_dir + "/0ü/0".encode()).st_nlink > 1


def test_file_system(
    store_dir: bytes, conf: str, expected: bytes, stream_image: Run, other_file_system: str
) -> None:
    """A tmpfs lists newest first, ext4 by hash; the image depends on neither."""
    os.rename(store_dir, store_dir + b".old")
    try:
        subprocess.run(["cp", "-a", store_dir + b".old/.", other_file_system], check=True)
        os.symlink(other_file_system, store_dir)
        assert successful(stream_image("-q", conf)) == expected
    finally:
        os.unlink(store_dir)
        os.rename(store_dir + b".old", store_dir)


def test_sparse_state(store_dir: bytes, conf: str, stream_image: Run) -> None:
    """Holes in files are written as zeros."""
    path = store_dir + "/0ü/0".encode()
    with open(path, "wb") as file:
        file.write(bytes(1 << 20))
    full = successful(stream_image("-q", conf))
    with open(path, "wb") as file:
        file.truncate(1 << 20)
    assert successful(stream_image("-q", conf)) == full


def test_repeated_runs(conf: str, expected: bytes, stream_image: Run) -> None:
    """Threads that hash and walk ahead do not affect the bytes."""
    for _ in range(3):
        assert successful(stream_image("-q", conf)) == expected
