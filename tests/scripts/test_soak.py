"""Some seconds of scripts/soak.py: every fault is refused, nothing else fails, memory is flat."""

from pathlib import Path

import pytest
import soak
from bench_resize import shape
from random_container import random_container

from bitstack.errors import UserError
from bitstack.machine import pages


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("soak") / "made"
    return random_container(folder, shape(False), planes=8)


@pytest.fixture
def soaking(container: Path, tmp_path: Path) -> soak.Soak:
    try:
        pages.process_bytes()
    except UserError:
        pytest.skip("needs /proc")
    return soak.Soak(container, tmp_path)


def test_a_model_goes_on_while_its_container_breaks(soaking: soak.Soak) -> None:
    result = soaking.run(4, len(soak.FAULTS) + 2)
    assert result.failures == []
    assert result.refused.keys() == soak.FAULTS.keys()
    assert result.equal_logits
    assert result.generations > 0
    assert result.resizes > 0
    assert result.rss_bytes
    soak.print_table(result)


def test_what_is_not_refused_and_what_fails_is_noticed(soaking: soak.Soak) -> None:
    soaking._expect_refusals("nothing is broken")
    soaking._fail("twice")
    soaking._fail("twice")
    assert soaking.result.failures == ["nothing is broken: no resize was refused", "twice"]
    assert not soaking.result.passed


@pytest.mark.parametrize(("rss", "flat"), [([100, 101], True), ([100, 103, 100], False)])
def test_growth_counts_from_the_first_reading(rss: list[int], flat: bool) -> None:
    result = soak.Result(rss_bytes=rss, equal_logits=True)
    assert result.growth == pytest.approx(max(rss) / 100 - 1)
    assert result.passed == flat
