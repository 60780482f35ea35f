"""Ends a job whose worker process was lost, and says which. Beam alone may wait for its answer for ever."""

from __future__ import annotations

import contextlib
import gc
import re
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

from apache_beam.runners.portability.fn_api_runner.worker_handlers import ControlConnection, GrpcWorkerHandler

# What Beam's thread that waits for a worker process says when the process did not end with 0.
_ENDED = re.compile(r"Worker subprocess exited with return code (-?\d+)")


@contextlib.contextmanager
def noting_lost_workers() -> Iterator[list[str]]:
    """While the block runs, the list gets a clause for each worker process that was lost, and their bundles fail."""
    lost: list[str] = []
    before = threading.excepthook

    def excepthook(arguments: threading.ExceptHookArgs) -> None:
        for connection in _owners(arguments.exc_traceback, ControlConnection):
            _abandon(connection)
        if ended := _ENDED.fullmatch(str(arguments.exc_value)):
            worker = _worker_of(arguments.exc_traceback)
            lost.append(_sentence(worker, int(ended[1])))
            # Its connection may have ended without an error, and then nobody else would end the waiting.
            for connection in _connections_of(worker.strip()):
                _abandon(connection)
        before(arguments)

    threading.excepthook = excepthook
    try:
        yield lost
    finally:
        threading.excepthook = before


def _sentence(worker: str, code: int) -> str:
    # A shell, which starts the worker, adds 128 to the number of the signal.
    number = -code if code < 0 else code - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"the worker process{worker} ended with exit code {code}, and its own messages say why"
    if number != signal.SIGKILL:
        return f"the worker process{worker} was ended by {name}"
    return (
        f"the worker process{worker} was killed ({name}), most likely as the memory ran out; fewer processes "
        "(runner.options.direct_num_workers) or a smaller explain.batch_size need less"
    )


def _abandon(connection: ControlConnection) -> None:
    """Lets everything fail that waits for the worker at the other end, now or later."""
    error = RuntimeError("the worker process was lost")
    push = connection.push

    def push_in_vain(request: Any) -> Any:
        answer = push(request)
        if answer is not None:
            answer.abort(error)
        return answer

    connection.push = push_in_vain
    connection.abort(error)


def _connections_of(worker: str) -> list[ControlConnection]:
    """The connections to a worker process. Beam keeps no list of them that others can read."""
    handlers = [each for each in gc.get_objects() if issubclass(type(each), GrpcWorkerHandler)]
    return [handler.control_conn for handler in handlers if handler.worker_id == worker]


def _worker_of(traceback: TracebackType | None) -> str:
    """The name that Beam gave the worker, from the frame that waited for its end; empty if it is not known."""
    names = (getattr(owner, "_worker_id", None) for owner in _owners(traceback, object))
    return next((f" {name}" for name in names if name), "")


def _owners(traceback: TracebackType | None, kind: type[Any]) -> Iterator[Any]:
    """The objects of a class whose methods an error went through."""
    while traceback is not None:
        frame: FrameType = traceback.tb_frame
        if isinstance(owner := frame.f_locals.get("self"), kind):
            yield owner
        traceback = traceback.tb_next
