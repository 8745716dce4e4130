"""A few kills of scripts/kill_runs.py, and that it would notice a run that lost something."""

import signal
from pathlib import Path

import kill_runs as kill
import pytest

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
FEW = kill.FEW_CALLS | {"search_sweeps": 0, "joint_passes": 0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> kill.Runs:
    folder = tmp_path_factory.mktemp("kill")
    return kill.Runs(kill.make_setup(folder, **FEW), folder)


def test_killed_runs_go_on_to_the_same_bytes(runs: kill.Runs) -> None:
    row = kill.at_calls(runs, every=runs.calls // 3)
    assert runs.calls > 60
    assert row.kills == row.same_bytes >= 3
    assert row.resumed >= 2
    row = kill.at_random(runs, 1, seed=0)
    assert row.kills == row.same_bytes == 1


def test_other_bytes_are_noticed(runs: kill.Runs) -> None:
    expected = runs.expected
    try:
        runs.expected = expected | {"bitstack.json": b"other"}
        row = kill.Row("other")
        runs.killed(row, kill_at=runs.calls // 2)
    finally:
        runs.expected = expected
    assert (row.kills, row.same_bytes) == (1, 0)


def test_a_run_that_fails_is_an_error(tmp_path: Path, runs: kill.Runs) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(RuntimeError, match="exit code 1"):
        runs.run(tmp_path)
