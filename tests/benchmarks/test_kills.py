"""A run that gets SIGKILL in any phase loses nothing, and the benchmark of kills hits the phases that it names."""

from __future__ import annotations

import pathlib

import pytest

from benchmarks.kills import PHASES, UNITS, Bench, chosen, dataset, kill_once, undisturbed


@pytest.mark.slow
def test_a_run_killed_in_any_phase_goes_on_and_equals_an_undisturbed_one(tmp_path: pathlib.Path) -> None:
    bench = Bench(tmp_path, dataset(tmp_path), str(tmp_path))
    moments, units = undisturbed(bench)
    assert len(units) == UNITS
    outcomes = [kill_once(bench, moment, units, bench.output("undisturbed")) for moment in chosen(moments, len(PHASES))]
    assert [outcome.moment.phase for outcome in outcomes] == list(PHASES)
    assert [outcome.problem for outcome in outcomes] == [None] * len(PHASES)
    assert outcomes[0].committed == 0
    assert 0 < outcomes[1].committed < UNITS
    assert [outcome.committed for outcome in outcomes[2:]] == [UNITS] * 3
