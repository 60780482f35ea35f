"""Tables that a benchmark prints, and writes as CSV."""

from __future__ import annotations

import csv
import dataclasses
import statistics
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(slots=True)
class Report:
    """Prints tables and keeps their values for a CSV file with the columns table, row, column and value."""

    console: Console = dataclasses.field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else 140))
    values: list[tuple[str, str, str, str]] = dataclasses.field(default_factory=list)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*row)
            self.values.extend((title, row[0], column, cell) for column, cell in zip(columns[1:], row[1:], strict=True))
        self.console.print(table)

    def write(self, path: str) -> None:
        with open(path, "w", newline="") as sink:
            csv.writer(sink).writerows([("table", "row", "column", "value"), *self.values])


def with_range(values: Sequence[float], form: str = ".1f") -> str:
    """The median, with the least and the largest value in brackets if there are several."""
    median = f"{statistics.median(values):{form}}"
    return median if len(values) == 1 else f"{median} ({min(values):{form}} to {max(values):{form}})"
