"""Kills runs with SIGKILL at chosen moments, goes on with them, and compares the result with an undisturbed run.

    python -m benchmarks.kills [--kills 30] [--s3] [--seconds-without-server 10] [--csv FILE]

An undisturbed run is recorded first: every file that it opens, links, renames or removes, or with --s3 every request
that it sends, in order. Each of these is a moment at which a run can be lost. The moments of each phase are spread over
the phase: planning, until the run has claimed its output; computing, until all units are committed; merging, the
reading of what units wrote; classes, the tables of classes, examples and clusters; summary, from summary.json on.
For each, a run into a fresh output gets SIGKILL just before the operation. Then

- what readers by pattern see must be committed, with no image twice;
- the same command must go on, to exit code 0, without computing a committed unit again;
- all tables must equal those of the undisturbed run, and `tmp` must be empty.

With --s3 the output is on a real S3 server (versitygw, which needs Go), and in one more run the server is killed in the
middle, and started again after some seconds.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import csv
import dataclasses
import io
import json
import multiprocessing
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported, here or in a process of these

PHASES = ("planning", "computing", "merging", "classes", "summary")

UNITS = 12

TABLES = ("classes.parquet", "confusion.parquet", "examples.parquet", "clusters.parquet", "cluster_members.parquet")

# What is imported before the processes are forked, so that each starts at once. None of it starts TensorFlow's threads.
_PRELOADED = ["pipeline.cli", "pipeline.run", "tensorflow", "keras", "boto3"]

_WATCHED = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.listdir", "os.scandir", "http.client.send"}
_REQUEST = re.compile(rb"(GET|PUT|POST|HEAD|DELETE) (\S+) HTTP")


@dataclasses.dataclass(frozen=True, slots=True)
class Moment:
    """An operation of a run on files.

    Attributes:
      phase: one of `PHASES`.
      number: its place among all of its phase, from 0.
      operation: for people.
    """

    phase: str
    number: int
    operation: str


class Phases:
    """Tells the phase of each operation, in their order.

    Args:
      units: how many units the run has.
    """

    def __init__(self, units: int):
        self._units = units
        self._claimed = False
        self._receipts: set[str] = set()
        self._at_tables = False
        self._tables_to_come = {*TABLES, "summary.json"}
        self._counts: collections.Counter[str] = collections.Counter()

    def moment(self, operation: str) -> Moment:
        """The operation as a moment of its phase."""
        phase = self._phase(operation)
        self._counts[phase] += 1
        return Moment(phase, self._counts[phase] - 1, operation)

    def _phase(self, operation: str) -> str:
        paths = operation.partition("?")[0]
        name = paths.rpartition("/")[2]
        gives_name = operation.startswith(("link", "rename", "PUT"))
        if not self._claimed:
            self._claimed = gives_name and name == "run.json"
            return "planning"
        if not self._tables_to_come:
            return "summary"
        if gives_name:
            self._tables_to_come.discard(name)
        if "summary.json" in paths:
            return "summary"
        self._at_tables |= bool(re.search(r"classes|confusion|examples|cluster", name))
        if self._at_tables:
            return "classes"
        receipt = re.search(r"/receipts/([^/ ]+)\.json", paths)
        if receipt and operation.startswith(("link", "rename", "PUT", "create")):
            self._receipts.add(receipt[1])
        if len(self._receipts) == self._units and re.match(r"(read|GET|HEAD) .*/(partials|maps)/", paths):
            return "merging"
        return "computing"


class Watch:
    """Notes the operations of this process on files under `roots`, and ends it with SIGKILL before one of them.

    Args:
      roots: folders, or paths in the addresses of requests.
      log: a file that gets a line for each operation.
      units: how many units the run has.
      kill_at: the phase of the last one, and its number in it; None for none.
    """

    def __init__(self, roots: Sequence[str], log: str, units: int, kill_at: tuple[str, int] | None):
        self._roots = roots
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._kill_at = kill_at
        self._phases = Phases(units)
        self._busy = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _WATCHED:
            return
        operation = self._request(arguments[1]) if event == "http.client.send" else self._of_files(event, arguments)
        if operation is None:
            return
        with self._busy:
            os.write(self._log, f"{operation}\n".encode())
            moment = self._phases.moment(operation)
            if (moment.phase, moment.number) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def _request(self, data: Any) -> str | None:
        found = _REQUEST.match(data) if isinstance(data, bytes) else None
        return f"{found[1].decode()} {found[2].decode()}" if found else None

    def _of_files(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        paths = [os.fspath(path) for path in arguments[:2] if isinstance(path, str | os.PathLike)]
        if not any(path.startswith(root) for path in paths for root in self._roots):
            return None
        if event == "open":
            writes = arguments[2] & (os.O_WRONLY | os.O_RDWR)
            return f"{'create' if writes else 'read'} {paths[0]}"
        return f"{event.removeprefix('os.')} {' '.join(paths)}"


def run_watched(config: str, said: str, *watched: Any) -> None:
    """`fullgrad run` in this process, whose output goes to the file `said`; `watched` are the arguments of `Watch`."""
    sink = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    from pipeline.cli import main as fullgrad

    sys.addaudithook(Watch(*watched))
    sys.exit(fullgrad(["run", config]))


def chosen(moments: Sequence[Moment], kills: int) -> list[Moment]:
    """As many moments of each phase, spread over it."""
    by_phase = collections.defaultdict(list)
    for moment in moments:
        by_phase[moment.phase].append(moment)
    if missing := [phase for phase in PHASES if not by_phase[phase]]:
        raise SystemExit(f"no operation was seen in the phases {', '.join(missing)}")
    found = []
    for place, phase in enumerate(PHASES):
        count = kills // len(PHASES) + (place < kills % len(PHASES))
        of_phase = by_phase[phase]
        # A faster run writes fewer heartbeats, so it may not have the last of them.
        found += [of_phase[int((i + 0.5) / count * 0.85 * len(of_phase))] for i in range(count)]
    return found


# ---- what a run leaves

_ABOUT_THE_RUN = {"run", "units_computed", "models_loaded", "workers"}  # of summary.json: they tell how it was computed


def seen_by_pattern(path: str, units: set[str]) -> int:
    """What readers of `maps/*.parquet` see after a kill: committed units alone, no image twice. Returns the rows."""
    from transforms.output import Output, list_files, read_table

    output = Output(path)
    committed = {receipt.unit.id for receipt in output.read_receipts()}
    rows = []
    for kind in ("maps", "small_maps", "partials", "errors"):
        for part in list_files(output.file(kind, "*")):
            name = part.rpartition("/")[2].removesuffix(".parquet")
            if name not in committed or name not in units:
                raise AssertionError(f"{part} lies where readers look, and its unit is not committed")
            if kind == "maps":
                table = read_table(part, ["shard", "index", "target"])
                rows += list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    if len(set(rows)) != len(rows):
        raise AssertionError(f"{path} has an image twice")
    return len(rows)


def difference(path: str, expected: str) -> str | None:
    """What differs between two outputs; None if nothing does but times and the order of rows."""
    from pipeline.verification import verify_output
    from transforms.output import Output, list_files, read_maps, read_table
    from transforms.output.uploads import unfinished_uploads

    here, there = Output(path), Output(expected)
    if left := [*list_files(here.file("tmp", "*")), *unfinished_uploads(here.file("tmp"))]:
        return f"tmp still has {left[0]}"
    with contextlib.redirect_stdout(io.StringIO()) as said:
        if verify_output(here):
            return said.getvalue().strip()
    if problem := _unlike(_by_key(read_maps(path)), _by_key(read_maps(expected)), "maps"):
        return problem
    for name in TABLES:
        tables = [read_table(each.file(name)).to_pylist() for each in (here, there)]
        if problem := _unlike(*tables, name):
            return problem
    summaries = []
    for output in (here, there):
        kept = {key: value for key, value in output.read_json("summary.json").items() if key not in _ABOUT_THE_RUN}
        summaries.append({key: value for key, value in kept.items() if "second" not in key})
    return _unlike(*summaries, "summary.json")


def _by_key(rows: Iterator[dict[str, Any]]) -> dict[str, Any]:
    return {f"{row['shard']} {row['index']} {row['target']}": row for row in rows}


def _unlike(value: Any, expected: Any, where: str) -> str | None:
    """The first place where two values differ by more than rounding."""
    import numpy as np

    if isinstance(expected, dict):
        if value.keys() != expected.keys():
            return f"{where}: {sorted(value)} instead of {sorted(expected)}"
        found = (_unlike(value[key], expected[key], f"{where} {key}") for key in expected)
    elif isinstance(expected, list) and expected and isinstance(expected[0], dict):
        if len(value) != len(expected):
            return f"{where}: {len(value)} rows instead of {len(expected)}"
        found = (_unlike(*pair, f"{where} {i}") for i, pair in enumerate(zip(value, expected, strict=True)))
    elif isinstance(expected, float | np.ndarray) or (isinstance(expected, list) and expected):
        same = np.shape(value) == np.shape(expected)
        numbers = same and np.asarray(expected).dtype.kind == "f"
        equal = np.allclose(value, expected, rtol=1e-5, atol=1e-6, equal_nan=True) if numbers else value == expected
        return None if np.all(equal) else f"{where}: {value} instead of {expected}"
    else:
        return None if value == expected else f"{where}: {value} instead of {expected}"
    return next((problem for problem in found if problem), None)


# ---- the runs


class Bench:
    """Runs one configuration again and again, each time in a new process.

    Args:
      folder: for configurations and what runs say.
      value: the configuration without its output.
      place: the folder or bucket of the outputs.
    """

    def __init__(self, folder: pathlib.Path, value: dict[str, Any], place: str):
        self._folder = folder
        self._value = value
        self._place = place
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)

    def output(self, name: str) -> str:
        return f"{self._place}/{name}"

    def moments(self, name: str) -> list[Moment]:
        """The operations of the last run into an output."""
        phases = Phases(UNITS)
        return [phases.moment(line) for line in (self._folder / f"{name}.log").read_text().splitlines()]

    def said(self, name: str) -> str:
        return (self._folder / f"{name}.txt").read_text(errors="replace")

    def start(self, name: str, kill_at: tuple[str, int] | None = None) -> Any:
        """Starts a run into an output. Returns its process."""
        output = {**self._value["output"], "path": self.output(name)}
        config = self._folder / f"{name}.json"
        config.write_text(json.dumps({**self._value, "output": output}))  # JSON is YAML
        log, said = self._folder / f"{name}.log", self._folder / f"{name}.txt"
        log.unlink(missing_ok=True)
        said.unlink(missing_ok=True)
        scheme, _, rest = self.output(name).partition("://")
        roots = [f"/{rest}"] if rest else [scheme]
        arguments = (str(config), str(said), roots, str(log), UNITS, kill_at)
        process = self._context.Process(target=run_watched, args=arguments)
        process.start()
        return process

    def run(self, name: str, kill_at: tuple[str, int] | None = None) -> int:
        """Runs to the end. Returns the exit code; −9 after SIGKILL."""
        process = self.start(name, kill_at)
        process.join()
        return int(process.exitcode)


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What one kill led to.

    Attributes:
      moment: where it was.
      committed: the units that were committed by then.
      computed_again: committed units that the next run computed again.
      problem: what was wrong; None if nothing.
    """

    moment: Moment
    committed: int
    computed_again: int
    problem: str | None


def kill_once(
    bench: Bench, moment: Moment, units: set[str], expected: str, after_kill: Callable[[], None] = lambda: None
) -> Outcome:
    """Kills a run into a fresh output at a moment, calls `after_kill`, and goes on with the run."""
    from transforms.output import Output

    name = f"kill-{PHASES.index(moment.phase)}-{moment.number}"  # without words that tell a phase
    code = bench.run(name, (moment.phase, moment.number))
    # Threads may change the order a little, so the moment that was hit is told, not the one that was aimed at.
    hit = bench.moments(name)[-1]
    if code != -signal.SIGKILL:
        return Outcome(hit, 0, 0, f"the run ended with {code} before it was killed: {bench.said(name)[-500:]}")
    path = bench.output(name)
    after_kill()
    try:
        seen_by_pattern(path, units)
        before = {receipt.unit.id: receipt for receipt in Output(path).read_receipts()}
        code = bench.run(name)
        if code != 0:
            return Outcome(hit, len(before), 0, f"the same command ended with {code}: {bench.said(name)[-500:]}")
        after = {receipt.unit.id: receipt for receipt in Output(path).read_receipts()}
        again = sum(after[unit] != receipt for unit, receipt in before.items())
        problem = difference(path, expected) or ("committed units were computed again" if again else None)
        return Outcome(hit, len(before), again, problem)
    except (AssertionError, OSError, ValueError) as error:
        return Outcome(hit, 0, 0, f"{type(error).__name__}: {error}")


def undisturbed(bench: Bench) -> tuple[list[Moment], set[str]]:
    """A run to its end: its moments, and the ids of its units."""
    from transforms.output import Output

    if (code := bench.run("undisturbed")) != 0:
        raise SystemExit(f"the undisturbed run ended with {code}: {bench.said('undisturbed')}")
    units = {receipt.unit.id for receipt in Output(bench.output("undisturbed")).read_receipts()}
    if len(units) != UNITS:
        raise SystemExit(f"the undisturbed run has {len(units)} units instead of {UNITS}")
    return bench.moments("undisturbed"), units


def dataset(folder: pathlib.Path) -> dict[str, Any]:
    """Writes shards of 44 images in all and a small CNN. Returns the configuration; it has `UNITS` units."""
    from tests import shards
    from tests.samples import configuration, encoded_images

    samples = encoded_images(44)
    for i in range(UNITS // 3):
        shards.write_tfrecord(folder / f"{i}.tfrecord", samples[11 * i : 11 * (i + 1)])
    return configuration(
        folder,
        str(folder / "*.tfrecord"),
        input={"images_per_unit": 4},
        explain={"batch_size": 4, "jit": "off", "targets": "top-2"},
        output={"clusters": True},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the benchmark from the command line. Returns 0 if every kill left what it must."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", metavar="N", type=int, default=30, help="how many runs are killed (30)")
    parser.add_argument("--s3", action="store_true", help="write the outputs to an S3 server")
    parser.add_argument(
        "--seconds-without-server", metavar="S", type=float, default=10.0, help="how long it is gone (10)"
    )
    parser.add_argument("--csv", metavar="FILE", help="also write the kills to this file")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = pathlib.Path(name)
        store = stack.enter_context(_store(folder)) if arguments.s3 else None
        bench = Bench(folder, dataset(folder), store.url("kills") if store else str(folder))
        moments, units = undisturbed(bench)
        outcomes = []
        for moment in chosen(moments, arguments.kills):
            outcomes.append(kill_once(bench, moment, units, bench.output("undisturbed")))
            print(_line(outcomes[-1]), flush=True)
        _print(moments, outcomes)
        problems = [outcome.problem for outcome in outcomes if outcome.problem]
        if store and arguments.seconds_without_server:
            problems += filter(None, [without_server(bench, store, arguments.seconds_without_server)])
    if arguments.csv:
        with open(arguments.csv, "w", newline="") as sink:
            writer = csv.writer(sink)
            writer.writerow(["moment", "phase", "operation", "committed", "computed_again", "problem"])
            for each in outcomes:
                moment = each.moment
                writer.writerow(
                    [moment.phase, moment.number, moment.operation, each.committed, each.computed_again, each.problem]
                )
    return 1 if problems else 0


@contextlib.contextmanager
def _store(folder: pathlib.Path) -> Iterator[Any]:
    """An S3 server that this process and its children find."""
    from tests.cluster.s3 import s3
    from tests.cluster.servers import S3_CREDENTIALS

    root = folder / "s3"
    root.mkdir()
    with s3(root) as store:
        os.environ.update(S3_CREDENTIALS, AWS_ENDPOINT_URL=store.endpoint)
        yield store


def without_server(bench: Bench, store: Any, seconds: float) -> str | None:
    """Stops the server in the middle of a run, and starts it again. Returns what was wrong."""
    from transforms.output import Output

    started = time.monotonic()
    process = bench.start("without-server")
    output = Output(bench.output("without-server"))
    while process.is_alive() and len(output.read_receipts()) < 2:
        time.sleep(0.05)
    committed = len(output.read_receipts())
    store.stop()
    time.sleep(seconds)
    store.start()
    process.join()
    said = bench.said("without-server")
    problem = f"it ended with {process.exitcode}: {said[-2000:]}" if process.exitcode else None
    problem = problem or difference(bench.output("without-server"), bench.output("undisturbed"))
    print(
        f"server gone for {seconds:g} s after {committed} units, run of {time.monotonic() - started:.0f} s: "
        f"{problem or 'equal to the undisturbed run'}"
    )
    return problem


def _line(outcome: Outcome) -> str:
    moment = outcome.moment
    return (
        f"{moment.phase:9} {moment.number:5} {outcome.committed:2} committed  {outcome.problem or 'equal'}  "
        f"{_short(moment.operation)}"
    )


def _short(operation: str) -> str:
    """An operation with the names of files alone."""
    return " ".join(re.sub(r"^.*/(?=[^/]*/[^/]*$)", "", word) for word in operation.split(" "))[:100]


def _print(moments: Sequence[Moment], outcomes: Sequence[Outcome]) -> None:
    table = Table("phase", "operations", "kills", "equal", "computed again")
    for phase in PHASES:
        here = [outcome for outcome in outcomes if outcome.moment.phase == phase]
        table.add_row(
            phase,
            f"{sum(moment.phase == phase for moment in moments)}",
            f"{len(here)}",
            f"{sum(outcome.problem is None for outcome in here)}",
            f"{sum(outcome.computed_again for outcome in here)}",
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
