"""The time that the tests take, by set; in another checkout too, to compare.

    python -m benchmarks.testing [OTHER_CHECKOUT] [--all] [--folders]

It runs the README's command, `python -m pytest`, and prints how many tests ran and how many seconds that took. With
--all, it also runs everything, slow tests and those that need Java, Go, browsers and a network included, as CI does, in
three processes. OTHER_CHECKOUT is a folder with another version of the project, such as `git worktree add` makes, whose
README's command is timed in the same run. --folders adds a row for each folder of tests: the sum of its tests' seconds,
over all processes. A test that fails is named, and its time counts.
"""

from __future__ import annotations

import argparse
import collections
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as xml
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
QUICK: tuple[str, ...] = ()
REST = ("--numprocesses=3", "-m", "slow or network or cluster or image or browser")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", metavar="OTHER_CHECKOUT", nargs="?", type=pathlib.Path)
    parser.add_argument("--all", action="store_true", help="the tests that the README's command leaves out, too")
    parser.add_argument("--folders", action="store_true", help="a row for each folder of tests")
    options = parser.parse_args(arguments)
    runs = [("the README's command", REPOSITORY, QUICK)]
    if options.all:
        runs.append(("all other tests", REPOSITORY, REST))
    if options.other:
        runs.append((f"the README's command in {options.other.name}", options.other.resolve(), QUICK))

    table = Table("", "passed", "skipped", "failed", "seconds")
    for column in table.columns[1:]:
        column.justify = "right"
    failed = 0
    for name, checkout, how in runs:
        seconds, cases = timed(checkout, how)
        outcomes = collections.Counter(map(outcome, cases))
        failed += outcomes["failed"]
        counts = (f"{outcomes[each]:,}" for each in ("passed", "skipped", "failed"))
        table.add_row(name, *counts, f"{seconds:,.0f}")
        for folder, tests in sorted(by_folder(cases).items()) if options.folders else ():
            spent = sum(float(case.get("time", 0)) for case in tests)
            table.add_row(f"  {folder}", f"{len(tests):,}", "", "", f"{spent:,.0f}")
    Console().print(table)
    return 1 if failed else 0


def timed(checkout: pathlib.Path, how: Sequence[str]) -> tuple[float, list[xml.Element]]:
    """The seconds of `python -m pytest` in a checkout, from its start to its end, and its tests as JUnit's elements."""
    with tempfile.TemporaryDirectory(prefix="fullgrad-benchmark-") as folder:
        report = pathlib.Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *how]
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        start = time.perf_counter()
        ended = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - start
        if not report.exists():
            raise SystemExit(f"pytest ended with exit code {ended.returncode} in {checkout}:\n{ended.stdout}")
        for line in ended.stdout.splitlines():
            if line.startswith(("FAILED ", "ERROR ")):
                print(line, file=sys.stderr)
        return seconds, list(xml.parse(report).iter("testcase"))


def outcome(case: xml.Element) -> str:
    """`passed`, `skipped` or `failed`."""
    kinds = {child.tag for child in case}
    return "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"


def by_folder(cases: Sequence[xml.Element]) -> dict[str, list[xml.Element]]:
    """The tests of `tests/transforms`, `tests/pipeline`, …; those of a file in `tests` itself are under `tests`."""
    found: dict[str, list[xml.Element]] = collections.defaultdict(list)
    for case in cases:
        module = [part for part in case.get("classname", "").split(".") if part[:1].islower()]
        found["/".join(module[:2]) if len(module) > 2 else "tests"].append(case)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
