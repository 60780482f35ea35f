"""A server in a process of its own: start it, wait for it, and stop it by its id."""

from __future__ import annotations

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil

ROOT = pathlib.Path(__file__).parent.parent.parent


def environment(**more: str) -> dict[str, str]:
    """The environment of this process and more, without the address of the tests' S3 server: jobs must bring that."""
    own = {name: value for name, value in os.environ.items() if name != "AWS_ENDPOINT_URL"}
    return {**own, **more}


class Server:
    """A process that writes its output to a file.

    Attributes:
      name: its name in error messages.
      log: the file for its output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: pathlib.Path,
        env: Mapping[str, str] | None = None,
        folder: pathlib.Path = ROOT,
    ):
        self.name = name
        self.log = log
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command, cwd=folder, env=environment(**(env or {})), stdout=sink, stderr=sink, stdin=subprocess.DEVNULL
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_until(self, ready: Callable[[], bool], seconds: float = 120) -> None:
        """Waits until it is ready.

        Raises:
          RuntimeError: it ended, or it takes longer than so many seconds; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = f"ended with {self._process.returncode}" if ended else f"was not ready within {seconds:g} s"
                raise RuntimeError(f"{self.name} {what}:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """Sends SIGKILL, as if the machine were lost."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Asks the process to end. After a while, kills it and the processes that it started."""
        if self._process.poll() is not None:
            return
        children = psutil.Process(self.pid).children(recursive=True)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


@contextlib.contextmanager
def running(server: Server) -> Iterator[Server]:
    """Stops the server at the end of the block, in every case."""
    try:
        yield server
    finally:
        server.stop()


def free_port(*hosts: str) -> int:
    """A port that is free on all these loopback addresses."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.socket())
            first.bind((hosts[0], 0))
            port: int = first.getsockname()[1]
            try:
                for host in hosts[1:]:
                    stack.enter_context(socket.socket()).bind((host, port))
            except OSError:
                continue
            return port


def accepts(host: str, port: int) -> bool:
    """Whether a server listens at this address."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


# The keys of the tests' S3 server. Every process that uses the server gets them from its environment.
S3_CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_DEFAULT_REGION": "us-east-1",
}


def start_worker_pool(host: str, port: int, log: pathlib.Path) -> Server:
    """A pool in which an engine starts Python worker processes. The pool has its own working directory."""
    # Beam starts the first `python` in the path.
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    command = [sys.executable, "-m", "tests.cluster.worker_pool", f"{host}:{port}"]
    own = log.parent / f"{log.stem}-works-here"
    own.mkdir(exist_ok=True)
    env = {"PATH": path, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "2", **S3_CREDENTIALS}
    return Server(f"the worker pool on {host}:{port}", command, log, env, own)
