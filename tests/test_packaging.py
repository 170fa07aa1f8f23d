"""The wheel, built from a copy of the source tree."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_wheel_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module missing from the wheel is found only by those who install it."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for name in ("stream", "native"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    sources = {
        str(path.relative_to(tmp_path))
        for path in (tmp_path / "stream").rglob("*")
        if path.is_file()
    }
    assert {"stream/__main__.py", "stream/py.typed", "stream/_tarhash.pyi"} <= sources

    monkeypatch.setenv("STREAM_IMAGE_CFLAGS", "-O0")  # only the names matter
    subprocess.run(
        [sys.executable, "setup.py", "-q", "bdist_wheel"], cwd=tmp_path, check=True, timeout=300
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources | {"stream/_tarhash.abi3.so"}
