"""Runs `fullgrad run` in a process of its own, as a user does, and watches its progress."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil

from tests.cluster.engines import Engine
from tests.cluster.servers import ROOT, environment
from transforms.output import Output
from transforms.unit import Receipt

_A_WHILE = 0.5

# Seconds to wait for something that takes one second on an idle machine.
LONG = 400


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """A file that is being written: the process that writes it, and the file's name."""

    pid: int
    part: str


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """A configuration that is run on an engine.

    Attributes:
      config: the configuration's file.
      path: the output folder.
    """

    config: pathlib.Path
    path: str

    @classmethod
    def on(cls, engine: Engine, value: dict[str, Any], folder: pathlib.Path) -> Run:
        """A run on an engine, with configuration and output in a folder."""
        return cls.to(str(folder / "out"), engine.runner, value, folder)

    @classmethod
    def to(cls, path: str, runner: dict[str, Any], value: dict[str, Any], folder: pathlib.Path) -> Run:
        """A run with a section `runner` and an output anywhere. The configuration is written into the folder."""
        config = folder / "config.json"  # JSON is YAML
        output = {**value["output"], "path": path}
        config.write_text(json.dumps({**value, "output": output, "runner": runner}))
        return cls(config, path)

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """Starts the command in a process group of its own, as a shell does, with further arguments. At the end of the
        block it is gone, and so are the processes that it started."""
        command = [sys.executable, "-m", "pipeline", "run", str(self.config), *arguments]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                children = psutil.Process(process.pid).children(recursive=True)
                process.kill()
                process.wait()
                for child in children:
                    child.kill()

    def finish(self, *arguments: str) -> str:
        """Runs the command to its end, which must be exit code 0. Returns its output."""
        with self.started(*arguments) as process:
            said, _ = process.communicate(timeout=LONG)
        assert process.returncode == 0, said
        return said

    @property
    def job(self) -> str:
        """The name of the last run's job in its engine."""
        run: dict[str, Any] = Output(self.path).read_json("run.json")
        return str(run["job"])

    def receipts(self) -> list[Receipt]:
        return Output(self.path).read_receipts()

    def attempts(self) -> list[Attempt]:
        """The files of `maps` that have been in progress for a while. Only their beginning is written."""
        found = []
        for path in pathlib.Path(self.path, "tmp").glob("*~maps~*.part"):
            with contextlib.suppress(FileNotFoundError):  # it was renamed meanwhile
                if time.time() - path.stat().st_mtime > _A_WHILE:
                    _, _, pid, _, _, part = path.name.split("~")
                    found.append(Attempt(int(pid), part))
        return found

    def wait_for_receipts(self, process: subprocess.Popen[str], count: int) -> None:
        """Waits until this many units are committed."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline and process.poll() is None:
            if len(self.receipts()) >= count:
                return
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        raise AssertionError(f"{count} receipts were not seen:\n{process.communicate()[0]}")

    def wait_until_nothing_is_committed(self, seconds: float = 10) -> list[Receipt]:
        """Waits until no receipt has come for a while, the time of many units. Returns the receipts."""
        receipts = self.receipts()
        since = time.monotonic()
        while time.monotonic() < since + seconds:
            time.sleep(0.5)
            if len(now := self.receipts()) != len(receipts):
                receipts, since = now, time.monotonic()
        return receipts

    def wait_for(self, process: subprocess.Popen[str], part: str) -> Attempt:
        """Waits until a unit is committed and the file is in progress. Returns the attempt at it."""
        deadline = time.monotonic() + LONG
        while time.monotonic() < deadline and process.poll() is None:
            for attempt in self.attempts():
                if part in attempt.part and self.receipts():
                    return attempt
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        raise AssertionError(f"{part} was not seen under way:\n{process.communicate()[0]}")
