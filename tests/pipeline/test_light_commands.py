"""What answers at once imports nothing that is slow: the help, the version, and the refusal of a wrong argument."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

from pipeline.config import describe_keys

ROOT = pathlib.Path(__file__).parents[2]
HEAVY = "apache_beam google keras llvmlite matplotlib numba numpy pandas pyarrow pydantic rich scipy tensorflow yaml"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "usage: fullgrad"),
        (["run", "--help"], 0, "explain.batch_size"),
        (["--version"], 0, r"fullgrad \d"),
        (["rum"], 2, "invalid choice: 'rum'"),
        (["run"], 2, "required: CONFIG.yaml"),
    ],
    ids=["help", "help of run", "version", "no command", "no configuration"],
)
def test_nothing_slow_is_imported(arguments: list[str], code: int, said: str) -> None:
    program = "import sys, fullgrad_beam; sys.exit(fullgrad_beam.main())"
    command = [sys.executable, "-X", "importtime", "-c", program, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == code
    assert re.search(said, ran.stdout + ran.stderr)
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if line.startswith("import time:")}
    assert "pipeline.arguments" in imported
    assert imported & set(HEAVY.split()) == set()


def test_the_help_lists_the_keys_of_the_schema() -> None:
    assert (ROOT / "pipeline" / "keys.txt").read_text(encoding="utf-8") == f"{describe_keys()}\n", (
        "make it again: python -c 'from pipeline.config import describe_keys; print(describe_keys())' > "
        "pipeline/keys.txt"
    )
