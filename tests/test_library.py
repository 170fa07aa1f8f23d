"""`import stream`: any output that accepts bytes, and a record that matches it."""

import gzip
import hashlib
import inspect
import io
import json
import os
import pkgutil
import subprocess
import tarfile
import threading
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import MIB, Store

import stream
from stream import errors

NAMES = dir(stream)


@pytest.fixture
def conf(tmp_path: Path) -> stream.ImageConf:
    """Return a conf of two layers and a customisation layer, 3 MiB in total."""
    store = Store.below(tmp_path)
    store.file("one/file", b"content")
    store.file("two", os.urandom(3 * MIB))
    content = store.file("custom/layer.tar", os.urandom(20_000)).read_bytes()
    store.file("custom/checksum", hashlib.sha256(content).hexdigest().encode() + b"\n")
    custom = str(store.path("custom"))
    return stream.load_conf(str(store.conf(["one"], ["two"], customisation_layer=custom)))


def _archive(conf: stream.ImageConf) -> bytes:
    file = io.BytesIO()
    stream.write_image(conf, file)
    return file.getvalue()


def test_record_is_true(conf: stream.ImageConf) -> None:
    """Without it a program would push or name content that was never written."""
    file = io.BytesIO()
    image = stream.write_image(conf, file)
    assert image.size == len(file.getvalue())
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        content = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    (manifest,) = json.loads(content["manifest.json"])
    assert manifest["Layers"] == [layer.archive_name for layer in image.layers]
    assert tuple(manifest["RepoTags"]) == image.repo_tags
    assert image.image_id == "sha256:" + hashlib.sha256(content[manifest["Config"]]).hexdigest()
    config = json.loads(content[manifest["Config"]])
    assert config["rootfs"]["diff_ids"] == [layer.diff_id for layer in image.layers]
    assert [item["comment"] for item in config["history"]] == [
        layer.comment for layer in image.layers
    ]
    for layer in image.layers:
        data = content[layer.archive_name]
        assert layer.size == len(data)
        assert layer.diff_id == "sha256:" + hashlib.sha256(data).hexdigest()


def test_file_descriptor(conf: stream.ImageConf, tmp_path: Path) -> None:
    """Without it a program could not pass a pipe or a socket."""
    path = tmp_path / "image.tar"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    stream.write_image(conf, fd)
    os.write(fd, b"still open")
    os.close(fd)
    assert path.read_bytes() == _archive(conf) + b"still open"


@pytest.mark.parametrize("buffering", [-1, 0])
def test_file(conf: stream.ImageConf, tmp_path: Path, buffering: int) -> None:
    """Without it the contents of a file's buffer would come after the image."""
    path = tmp_path / "image.tar"
    with path.open("w+b", buffering=buffering) as file:
        file.write(b"before")
        stream.write_image(conf, file)
        end = file.tell()
        file.write(b"after")
    assert path.read_bytes() == b"before" + _archive(conf) + b"after"
    assert end == path.stat().st_size - len(b"after")


def test_file_that_compresses(conf: stream.ImageConf, tmp_path: Path) -> None:
    """Without it the image would bypass the compressor and land in the middle of its file."""
    path = tmp_path / "image.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        stream.write_image(conf, file)  # type: ignore[arg-type]
    with gzip.open(path) as file:
        assert file.read() == _archive(conf)


class _Partial(io.RawIOBase):
    """Accepts a part of the bytes, as raw files may."""

    def __init__(self) -> None:
        self.received = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        taken = bytes(data[:50_000])
        self.received += taken
        return len(taken)


def test_object_that_takes_parts(conf: stream.ImageConf) -> None:
    """Without it an image would lack the bytes that a raw file did not accept at once."""
    file = _Partial()
    stream.write_image(conf, file)  # type: ignore[arg-type]
    assert file.received == _archive(conf)


class _Broken:
    """Accepts some bytes, then raises the given error."""

    def __init__(self, room: int, error: BaseException) -> None:
        self.room = room
        self.error = error

    def write(self, data: bytes) -> int:
        self.room -= len(data)
        if self.room < 0:
            raise self.error
        return len(data)


@pytest.mark.parametrize("room", [0, MIB, 3 * MIB])
@pytest.mark.parametrize("error", [ZeroDivisionError("x"), OSError(5, "x"), BrokenPipeError()])
def test_object_that_raises(conf: stream.ImageConf, room: int, error: Exception) -> None:
    """Without it the error of a caller's own object would be replaced, or lost."""
    with pytest.raises(type(error)) as caught:
        stream.write_image(conf, _Broken(room, error))  # type: ignore[arg-type]
    assert caught.value is error


def test_errors_are_also_builtin_exceptions(tmp_path: Path) -> None:
    """Without it a caller would have to know our exceptions to catch an OSError."""
    store = Store.below(tmp_path)
    os.mkfifo(store.path("fifo"))
    conf = stream.load_conf(str(store.conf(["fifo"])))
    with pytest.raises(stream.SourceError) as source:
        stream.write_image(conf, io.BytesIO())
    assert isinstance(source.value, OSError)
    assert source.value.path == os.fsencode(store.path("fifo"))
    with pytest.raises(stream.ConfError) as wrong:
        stream.parse_conf(b"[]")
    assert isinstance(wrong.value, ValueError)


def test_reader_closed(conf: stream.ImageConf) -> None:
    """Without it a program could not tell a closed pipe from a full disk."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(stream.ReaderClosedError) as caught:
        stream.write_image(conf, write_end)
    os.close(write_end)
    assert isinstance(caught.value, BrokenPipeError)


def test_images_side_by_side(conf: stream.ImageConf) -> None:
    """Without it a server could not stream two images at once."""
    expected = _archive(conf)
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(_archive(conf))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [data == expected for data in found] == [True] * 4


# ---- the public names


@pytest.mark.parametrize("name", NAMES)
def test_public_name(name: str) -> None:
    """Without it a name that moved would fail only in the program of its first user."""
    assert getattr(stream, name) is not None
    home = getattr(getattr(stream, name), "__module__", "stream")
    assert home.partition(".")[0] == "stream" or name in (
        "ArchiveFormat",
        "EngineName",
        "__version__",
    )


def test_names_that_are_not_public() -> None:
    """Without it a slip would be found as something else, or star imports bring internals."""
    # mypy refuses the ignored errors here and below if it sees no types, or any name.
    with pytest.raises(AttributeError, match="no attribute 'write_images'"):
        stream.write_images  # type: ignore[attr-defined]  # noqa: B018
    namespace: dict[str, object] = {}
    exec("from stream import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(NAMES)


def test_no_function_is_hidden_by_a_module() -> None:
    """Importing a module `stream.plan` would put it in the place of the function `plan`."""
    modules = {module.name for module in pkgutil.iter_modules(stream.__path__)}
    assert not modules & set(NAMES)


def test_all_errors_are_public() -> None:
    """Without it a program could not catch an error that it meets."""
    ours = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert ours <= set(NAMES)


def _mentioned(annotation: object) -> Iterator[object]:
    """Yield the types of this package in an annotation, also those within others."""
    if isinstance(annotation, list):  # the arguments of a Callable
        for item in annotation:
            yield from _mentioned(item)
    module = getattr(annotation, "__module__", None) or ""
    if isinstance(annotation, type | typing.NewType) and module.partition(".")[0] == "stream":
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _mentioned(argument)


def _annotations(value: object) -> Iterator[object]:
    """Yield the annotations of a function, or of a class's attributes and public methods."""
    functions: list[object] = [value]
    if isinstance(value, type):
        yield from typing.get_type_hints(value).values()
        for name, member in inspect.getmembers_static(value):
            if name == "__init__" or not name.startswith("_"):
                functions.append(getattr(member, "fget", getattr(member, "__func__", member)))
    for function in functions:
        if inspect.isfunction(function) and function.__module__.startswith("stream"):
            yield from typing.get_type_hints(function).values()


def test_public_names_are_closed() -> None:
    """Without it a program could not annotate what it is handed, or would import internals."""
    public = [getattr(stream, name) for name in NAMES]
    waiting = list(public)
    missing = set()
    while waiting:
        for annotation in _annotations(waiting.pop()):
            for found in _mentioned(annotation):
                if found not in public and found not in missing:
                    missing.add(found)
                    waiting.append(found)
    assert missing == set()
    assert {stream.LayerPlan, stream.Digest} <= {
        found for item in _annotations(stream.ImageConf) for found in _mentioned(item)
    } | {found for item in _annotations(stream.Layer) for found in _mentioned(item)}


# ---- wrong arguments


@pytest.mark.parametrize(
    ("codec", "level", "said"),
    [
        ("foo", None, "codec: 'foo' is not one of none, store, gzip, zstd, zstd-seekable"),
        ("gzip", 0, "level: 0 is not a level of gzip; it has 1 to 12"),
        ("gzip", 13, "level: 13 is not a level of gzip; it has 1 to 12"),
        ("zstd", 3.0, "level: 3.0 is not a level of zstd; it has 1 to 19"),
        ("zstd", "3", "level: '3' is not a level of zstd; it has 1 to 19"),
        ("zstd", True, "level: True is not a level of zstd; it has 1 to 19"),
        ("store", 3, "level: 3 is not possible; store has no levels"),
        ("none", 0, "level: 0 is not possible; none has no levels"),
    ],
)
def test_compression_that_does_not_exist(codec: str, level: int | None, said: str) -> None:
    """Without it a wrong codec would be a KeyError, and a wrong level compress nothing."""
    with pytest.raises(stream.ArgumentError) as caught:
        stream.Compression(codec=codec, level=level)
    assert str(caught.value) == said
    assert (caught.value.argument, caught.value.value) in {("codec", codec), ("level", level)}
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, stream.StreamImageError)


def test_level_that_is_omitted(conf: stream.ImageConf) -> None:
    """Without it `Compression(codec="gzip")` would compress nothing."""
    assert stream.Compression(codec="gzip").level == 6
    assert stream.Compression(codec="zstd").level == 3
    assert stream.Compression(codec="store").level is None
    file = io.BytesIO()
    stream.write_image(conf, file, compression=stream.Compression(codec="gzip"))
    assert gzip.decompress(file.getvalue()) == _archive(conf)
    assert len(file.getvalue()) < len(_archive(conf))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"archive_format": "zip"},
            "archive_format: 'zip' is not one of docker-archive, docker-archive-legacy, oci-archive",
        ),
        ({"threads": 0}, "threads: 0 is not a positive whole number"),
        ({"threads": -1}, "threads: -1 is not a positive whole number"),
        ({"threads": 1.5}, "threads: 1.5 is not a positive whole number"),
    ],
)
def test_wrong_argument(conf: stream.ImageConf, arguments: typing.Any, said: str) -> None:
    """Without it a caller's slip would be a bare KeyError, or be taken for the default."""
    file = io.BytesIO()
    with pytest.raises(stream.ArgumentError) as caught:
        stream.write_image(conf, file, **arguments)
    assert str(caught.value) == said
    assert file.getvalue() == b""


def test_image_in_a_conf(tmp_path: Path) -> None:
    """Without it the tag in `conf.json:name:tag` would be taken for another image."""
    path = Store.below(tmp_path).conf()
    with pytest.raises(stream.ArgumentError, match="is a conf, which has only one image") as caught:
        stream.inspect(f"{path}:x:1", lambda _message: None)
    assert caught.value.argument == "target"


def test_wrap(tmp_path: Path) -> None:
    """Without it only the command line could make an executable of a conf."""
    store = Store.below(tmp_path)
    store.file("one", b"content")
    path = store.conf(["one"])
    expected = _archive(stream.load_conf(path, repo_tag="other:2"))
    for embed in (False, True):
        program = tmp_path / "program"
        program.write_bytes(stream.wrap(path, repo_tag="other:2", embed=embed))
        program.chmod(0o755)
        assert subprocess.run([program], capture_output=True, check=True).stdout == expected
    with path.open() as file, pytest.raises(stream.ArgumentError, match="does not last as a file"):
        stream.wrap(f"/dev/fd/{file.fileno()}")


CONF = stream.parse_conf(b'{"repo_tag": "x:1"}')
NULL = io.BytesIO()
SPEC = stream.parse_spec(b'{"name": "x", "contents": []}')


@pytest.mark.parametrize(
    ("function", "args", "options", "argument"),
    [
        ("load_conf", (b"conf.json",), {}, "source"),
        ("parse_conf", ("{}",), {}, "data"),
        ("parse_spec", ("{}",), {}, "data"),
        ("plan", ("spec.json",), {}, "spec"),
        (
            "plan",
            (
                SPEC,
                "old.json",
            ),
            {},
            "previous",
        ),
        (
            "plan",
            (
                SPEC,
                ["/nix/store/x"],
            ),
            {},
            "previous",
        ),
        (
            "plan",
            (
                SPEC,
                [[3]],
            ),
            {},
            "previous",
        ),
        (
            "write_image",
            (
                "conf.json",
                NULL,
            ),
            {},
            "conf",
        ),
        (
            "write_image",
            (
                CONF,
                "out.tar",
            ),
            {},
            "output",
        ),
        (
            "write_image",
            (
                CONF,
                True,
            ),
            {},
            "output",
        ),
        (
            "write_image",
            (
                CONF,
                io.StringIO(),
            ),
            {},
            "output",
        ),
        (
            "write_image",
            (
                CONF,
                NULL,
                1,
            ),
            {},
            "observer",
        ),
        (
            "write_image",
            (
                CONF,
                NULL,
            ),
            {"compression": "zstd"},
            "compression",
        ),
        (
            "merge",
            (
                "image.tar",
                NULL,
            ),
            {},
            "targets",
        ),
        (
            "merge",
            (
                [],
                NULL,
            ),
            {},
            "targets",
        ),
        (
            "merge",
            (
                [3],
                NULL,
            ),
            {},
            "targets",
        ),
        (
            "merge",
            (
                ["x"],
                NULL,
            ),
            {"archive_format": "zip"},
            "archive_format",
        ),
        (
            "export",
            (
                b"image.tar",
                NULL,
            ),
            {},
            "target",
        ),
        (
            "export",
            (
                "image.tar",
                NULL,
            ),
            {"compression": "gzip"},
            "compression",
        ),
        (
            "export",
            (
                "image.tar",
                NULL,
            ),
            {"threads": 0},
            "threads",
        ),
        ("inspect", (b"image.tar",), {}, "target"),
        ("explain", (stream.plan,), {}, "conf"),
        (
            "explain",
            (
                CONF,
                "old.json",
            ),
            {},
            "earlier",
        ),
        ("verify", (3,), {}, "archive"),
        (
            "verify",
            (
                "image.tar",
                {},
            ),
            {},
            "conf",
        ),
        ("tarsum", (io.BytesIO(),), {}, "tar"),
        ("wrap", (CONF,), {}, "conf"),
    ],
)
def test_argument_of_the_wrong_type(
    function: str, args: tuple[Any, ...], options: dict[str, Any], argument: str
) -> None:
    """Without it a slip would end somewhere inside, as a TypeError that names nothing."""
    with pytest.raises(stream.ArgumentError) as caught:
        getattr(stream, function)(*args, **options)
    assert caught.value.argument == argument
    assert str(caught.value).startswith(f"{argument}: ")
