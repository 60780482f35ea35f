"""Flink's REST interface where there is none; with a cluster, tests/cluster/test_flink_jobs.py tries it."""

from __future__ import annotations

import functools
import http.server
import pathlib
import socket
import threading

import pytest

from pipeline.engines.flink import Flink


def test_where_nobody_answers_the_job_may_go_on_and_how_to_stop_it_is_said() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        said = Flink(url).cancel("fullgrad-0123")
    assert said.startswith("the job fullgrad-0123 may go on")
    assert f"{url} does not answer: [Errno 111] Connection refused" in said
    assert f"`curl {url}/jobs/overview`" in said
    assert f"`curl -X PATCH '{url}/jobs/ID?mode=cancel'`" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("page", "says"), [("config", "is no Flink: it does not answer with JSON"), ("other", "answered with 404")]
)
def test_another_server_is_not_taken_for_flink(page: str, says: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / page).write_text("<html>")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(OSError, match=says):
            Flink(f"http://127.0.0.1:{server.server_address[1]}").version()
        server.shutdown()
