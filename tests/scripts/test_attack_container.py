"""A sample of the attacks: all refused in a line that names the file, or harmless."""

import sys

import attack_container
import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="it forks, and limits its children")
def test_a_sample() -> None:
    result = attack_container.attack(None, seed=7, sample=30)
    assert result.plain.kind == "opened", result.plain
    assert result.problems == []
    assert sum(row.tried for row in result.rows.values()) == 30
    assert all(
        row.outcomes["refused"] + row.outcomes["harmless"] == row.tried
        for row in result.rows.values()
    )
