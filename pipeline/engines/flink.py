"""Asks Flink's own REST interface whether a cluster answers, and cancels jobs there.

Beam's job server does not pass a cancel on to a running job, so only Flink itself can stop one.
"""

from __future__ import annotations

import dataclasses
import json
import time
import urllib.error
import urllib.request
from typing import Any

# The states in which a job stays.
_ENDED = ("FINISHED", "CANCELED", "FAILED")

_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 0.5

# How long to wait for the end of a cancelled job. Its workers drop their units, which takes a few seconds.
_CANCEL_SECONDS = 60.0

# How long to wait until Flink lists a job that was just submitted.
_APPEAR_SECONDS = 15.0

# Like Flink's own client, this asks no proxy: the launcher reaches clusters directly.
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclasses.dataclass(frozen=True, slots=True)
class FlinkJob:
    """A job in Flink: its id, its name, and its state, such as RUNNING."""

    id: str
    name: str
    state: str

    @property
    def has_ended(self) -> bool:
        return self.state in _ENDED


@dataclasses.dataclass(frozen=True, slots=True)
class Flink:
    """The REST interface of a cluster.

    Attributes:
      url: http://HOST:PORT, without a slash at its end.
    """

    url: str

    @classmethod
    def at(cls, master: str) -> Flink | None:
        """The cluster that the option `flink_master` names; None for `[local]` and `[auto]`, which name no cluster."""
        address = master.strip().rstrip("/")
        if not address or address.startswith("["):
            return None
        return cls(address if address.startswith(("http://", "https://")) else f"http://{address}")

    def version(self) -> str:
        """The cluster's version, such as 1.20.5.

        Raises:
          OSError: nothing answers there, or something other than Flink does.
        """
        return str(self._ask("GET", "config")["flink-version"])

    def jobs(self, name: str) -> list[FlinkJob]:
        """The jobs with that name, including those that have ended.

        Raises:
          OSError: nothing answers there, or something other than Flink does.
        """
        listed = self._ask("GET", "jobs/overview")["jobs"]
        return [FlinkJob(job["jid"], job["name"], job["state"]) for job in listed if job["name"] == name]

    def cancel(self, name: str) -> str:
        """Cancels the jobs with that name, waits for their end, and returns what happened to them, as a clause."""
        try:
            jobs = self._wait_for(name)
            if not jobs:
                return f"Flink at {self.url} has no job {name}, which was not started yet"
            going_on = [job for job in jobs if not job.has_ended]
            if not going_on:
                return f"the job {name} had ended in Flink before ({jobs[0].state})"
            for job in going_on:
                self._ask("PATCH", f"jobs/{job.id}?mode=cancel")
            state = self._wait_for_end(going_on[0])
        except OSError as error:
            return (
                f"the job {name} may go on, as Flink's REST interface did not cancel it ({error}); cancel it on "
                f"Flink's page, or as `curl {self.url}/jobs/overview` finds its id and "
                f"`curl -X PATCH '{self.url}/jobs/ID?mode=cancel'` ends it"
            )
        if state in _ENDED:
            return f"Flink ended the job {name} ({state})"
        return f"Flink was told to cancel the job {name}, which is {state} after {_CANCEL_SECONDS:g} s; see {self.url}"

    def _wait_for(self, name: str) -> list[FlinkJob]:
        deadline = time.monotonic() + _APPEAR_SECONDS
        while not (jobs := self.jobs(name)) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        return jobs

    def _wait_for_end(self, job: FlinkJob) -> str:
        """Waits for the end of a job and returns its last state."""
        deadline = time.monotonic() + _CANCEL_SECONDS
        while True:
            [now] = [each for each in self.jobs(job.name) if each.id == job.id] or [job]
            if now.has_ended or time.monotonic() > deadline:
                return now.state
            time.sleep(_LOOK_SECONDS)

    def _ask(self, method: str, path: str) -> Any:
        """The parsed answer of the interface.

        Raises:
          OSError: nothing answers, or not as Flink does; the message fits into brackets.
        """
        request = urllib.request.Request(f"{self.url}/{path}", method=method)
        try:
            with _DIRECTLY.open(request, timeout=_ANSWER_SECONDS) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise OSError(f"{method} {self.url}/{path} was answered with {error.code} {error.reason}") from error
        except urllib.error.URLError as error:
            raise OSError(f"{self.url} does not answer: {error.reason}") from error
        except ValueError as error:
            raise OSError(f"{self.url} is no Flink: it does not answer with JSON") from error
