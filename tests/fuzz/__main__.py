"""Run one of the targets in Python under atheris: `python -m fuzz TARGET [LIBFUZZER OPTION]...`."""

import sys

import atheris

with atheris.instrument_imports(include=["stream"]):
    from fuzz.targets import TARGETS


def main() -> None:
    """Run the target that the command line names."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


main()
