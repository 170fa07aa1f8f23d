"""Print the test coverage of Python and C; fail below the floors.

The floors are in pyproject.toml. Run from the root of the measured tree, with the interpreter
that measured it.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

TOOLS = Path(sys.executable).parent
# A floor is to be raised if it is this many percentage points below the measured coverage.
SLACK = 1.0


def _output(tool: str, *args: str) -> bytes:
    return subprocess.run([TOOLS / tool, *args], check=True, stdout=subprocess.PIPE).stdout


def measure_python() -> float:
    """Return the percentage of Python lines that any process ran."""
    _output("coverage", "combine", "--quiet")
    report = json.loads(_output("coverage", "json", "--quiet", "-o", "-"))
    return float(report["totals"]["percent_covered"])


def measure_c() -> float:
    """Return the percentage of C lines that were run."""
    report = json.loads(_output("gcovr", "--filter", "native/", "--json-summary"))
    return float(report["line_percent"])


def main() -> int:
    """Compare the coverage with the floors; return the exit status."""
    document = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))
    floors = document["tool"]["stream-image"]["coverage-floor"]
    status = 0
    for language, measured in (("python", measure_python()), ("c", measure_c())):
        floor = floors[language]
        print(f"coverage of {language}: {measured:.1f} % of lines, floor {floor} %")
        if measured < floor:
            print(
                f"pyproject.toml: coverage of {language} fell below its floor; test the new lines"
            )
            status = 1
        elif measured > floor + SLACK:
            print(f"pyproject.toml: raise the floor of {language} to {int(measured)}")
    if status:
        print(_output("coverage", "report", "--skip-covered", "--show-missing").decode())
        print(_output("gcovr", "--filter", "native/").decode())
    return status


if __name__ == "__main__":
    sys.exit(main())
