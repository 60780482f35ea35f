"""What a run says before its first image: on a terminal while it lasts, elsewhere in the log."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from pipeline import terminal
from pipeline.progress import Progress


def test_a_terminal_shows_a_step_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "err", Console(file=io.StringIO(), force_terminal=True))
    shown: io.StringIO = terminal.err.file  # type: ignore[assignment]
    with terminal.step("loading the model"):
        assert shown.getvalue() == "loading the model …"
    assert shown.getvalue().endswith("\r\x1b[K"), "the line is erased"


def test_elsewhere_a_step_is_a_line_of_the_log_and_nothing_else(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), terminal.step("loading the model"):
        pass
    assert caplog.messages == ["loading the model"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("active", "images", "said"),
    [
        (0, 0, "0/4 units · waiting for a worker to begin"),
        (1, 0, "0/4 units · compiling, first batch"),
        (1, 8, "0/4 units"),
    ],
)
def test_the_bar_says_what_the_run_waits_for(active: int, images: int, said: str) -> None:
    progress = Progress(4, 0, 100, images, 0, None, active)
    assert terminal._detail(progress) == said
