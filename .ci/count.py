"""Adds up pytest's result files and prints the sum as one line.

usage: count.py [--some-passed] [--none-skipped] FILE.xml...

Fails with --some-passed when nothing passed, with --none-skipped when anything was skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree


def main(arguments: list[str]) -> int:
    """Print the sum and give the exit status."""
    passed = failed = skipped = 0
    for name in arguments:
        if name.startswith("--") or not Path(name).exists():
            continue
        for suite in ElementTree.parse(name).iter("testsuite"):
            tests, bad, skip = (
                int(suite.get("tests", "0")),
                int(suite.get("failures", "0")) + int(suite.get("errors", "0")),
                int(suite.get("skipped", "0")),
            )
            passed, failed, skipped = passed + tests - bad - skip, failed + bad, skipped + skip
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    if "--none-skipped" in arguments and skipped:
        return 1
    return 1 if "--some-passed" in arguments and not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
