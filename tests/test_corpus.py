"""The fuzzers' corpus, replayed without a fuzzer."""

import os
import subprocess
from pathlib import Path

import pytest
from fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
NATIVE = Path(__file__).parent / "fuzz" / "native"
ROOT = Path(__file__).parents[1]
INPUTS = [path for target in sorted(TARGETS) for path in sorted((CORPUS / target).iterdir())]


@pytest.mark.parametrize(
    "path", INPUTS, ids=lambda path: str(path.relative_to(CORPUS)).replace(os.sep, "-")
)
def test_input(path: Path) -> None:
    """Without it a fault that the fuzzer found once could return unnoticed."""
    TARGETS[path.parent.name](path.read_bytes())


def test_every_input_has_a_target() -> None:
    """Without it an input in a misspelt directory would never be replayed."""
    native = {path.stem for path in NATIVE.glob("*.c")}
    assert {path.name for path in CORPUS.iterdir() if path.is_dir()} == {*TARGETS, "native"}
    assert {path.name for path in (CORPUS / "native").iterdir()} == native


def _needs_python(path: Path) -> bool:
    return path.stem in ("entries", "tarhash", "writer")


@pytest.mark.slow
@pytest.mark.parametrize("target", sorted(path.stem for path in NATIVE.glob("*.c")))
def test_native_inputs(target: str, tmp_path: Path) -> None:
    """Without it a fault of native code that the fuzzer found could return unnoticed."""
    native = [path for path in (ROOT / "native").glob("*.c") if not _needs_python(path)]
    flags = ["-D_GNU_SOURCE", "-std=gnu11", "-g", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=undefined", f"-I{ROOT}/native", f"-I{NATIVE}"]
    sources = [NATIVE / f"{target}.c", NATIVE.parent / "replay.c", *native]
    program = tmp_path / target
    subprocess.run(["cc", *flags, *sources, "-lcrypto", "-o", program], check=True)
    inputs = sorted((CORPUS / "native" / target).iterdir())
    assert subprocess.run([program, *inputs], check=False).returncode == 0


def test_every_input_is_described() -> None:
    """Without it nobody would know what a file of the corpus is for."""
    readme = (CORPUS / "README.md").read_text("utf-8")
    inputs = [path for path in CORPUS.rglob("*") if path.is_file() and path.name != "README.md"]
    missing = [f"{path.relative_to(CORPUS)}" for path in inputs if f"`{path.name}`" not in readme]
    assert not missing
