"""Damaged files that `scripts/fuzz_container.py` found: reading each ends in success or UserError.

Each is FILE-NAME.NUMBER in `corpus`; it takes the place of that file in a small container.
"""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

CORPUS = Path(__file__).parent / "corpus"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.append(str(Path(__file__).parents[2] / "scripts"))
    return importlib.import_module("fuzz_container")


@pytest.fixture(scope="module")
def container(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return script.make(tmp_path_factory.mktemp("fuzz") / "container")


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_a_found_input_ends_well(script: Any, container: Path, path: Path) -> None:
    name, data = path.name.rpartition(".")[0], path.read_bytes()
    ends = {script.one(container, name, data, load=load) for load in (False, True)}
    assert ends <= {"success", "UserError"}


def test_the_whole_container_loads(script: Any, container: Path) -> None:
    assert script.read(container, "bitstack.json", load=True) == "success"


def test_an_end_of_another_kind_is_told(
    script: Any, container: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise KeyError(folder)

    monkeypatch.setattr(script, "read_manifest", fail)
    assert script.read(container, "bitstack.json", load=False).startswith("KeyError at ")


def test_cases_follow_from_the_seed(script: Any) -> None:
    whole = b'{"a": [1, {"b": "c"}]}'
    made = [
        [script.damaged("x.json", whole, script.random.Random(s)) for s in range(9)] for _ in "ab"
    ]
    assert made[0] == made[1]
    assert len(set(made[0])) > 5
