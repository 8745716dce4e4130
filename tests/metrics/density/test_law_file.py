"""Laws and series as files: what was written is read, and what is broken is refused."""

import json
import math
from pathlib import Path

import pytest

from bitstack.errors import UserError
from bitstack.metrics.density.capacity_density import density_of_loss
from bitstack.metrics.density.fit import fit_law
from bitstack.metrics.density.law import DensityLaw, Reference
from bitstack.metrics.density.law_file import (
    classics_law,
    load_law,
    named_law,
    pythia_law,
    read_references,
    save_law,
    to_json,
)


def law() -> DensityLaw:
    """Fitted on a series that nearly follows both laws, with α = 0.12."""
    rows = []
    for index, size in enumerate((5e6, 3e7, 1e8, 3e8, 8e8)):
        for ratio in (10, 20, 60):
            loss = 10 * size**-0.12 + 40 * (size * ratio) ** -0.2
            score = 0.75 / (1 + math.exp(4 * (loss - 1.6))) + 0.2
            noise = 0.002 * (-1) ** (index + ratio // 20)
            rows.append(Reference("r", size, size * ratio, loss * (1 + noise), score + noise))
    return fit_law(rows)


def test_a_law_survives_its_file(tmp_path: Path) -> None:
    path, made = tmp_path / "law.json", law()
    save_law(made, path, note="how")
    assert load_law(path) == made
    constants = to_json(made)["constants"]["LossLaw"]
    assert constants["alpha"]["interval"]["low"] < 0.12 < constants["alpha"]["interval"]["high"]


def test_the_law_that_comes_with_the_project() -> None:
    shipped = classics_law()
    assert len(shipped.references) == 5
    for reference in shipped.references:
        fitted = float(shipped.loss.loss(reference.parameters, reference.tokens))
        assert fitted == pytest.approx(reference.loss, rel=0.003)
        assert float(shipped.score.score(reference.loss)) == pytest.approx(
            reference.score, abs=0.02
        )
    largest = max(shipped.references, key=lambda reference: reference.parameters)
    options = {"loss": largest.loss, "parameters": largest.parameters}
    assert density_of_loss(shipped, **options).density == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "not a density law"),
        ('{"format": 2}', "not a density law of format 1"),
        ('{"format": 1, "loss": {}}', "broken density law"),
    ],
)
def test_broken_law_files(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "law.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load_law(path)


def test_a_law_with_a_nan_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "law.json"
    save_law(classics_law(), path)
    data = json.loads(path.read_text())
    data["loss"]["fit"]["estimates"][0] = math.nan
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="not finite"):
        load_law(path)


def test_references_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "series.json"
    row = {"parameters": 1e6, "tokens": 1e8, "loss": 3.0, "score": 0.4}
    path.write_text(json.dumps([row | {"name": "a"}, row]))
    assert [r.name for r in read_references(path)] == ["a", "2"]
    path.write_text(json.dumps([row, row | {"loss": None}]))
    with pytest.raises(UserError, match="reference 2: loss is None"):
        read_references(path)
    path.write_text('{"a": 1}')
    with pytest.raises(UserError, match="not a list"):
        read_references(path)


def test_laws_by_name(tmp_path: Path) -> None:
    assert named_law(None) == named_law("classics") == classics_law()
    assert named_law("pythia") == pythia_law()
    save_law(pythia_law(), tmp_path / "law.json")
    assert named_law(tmp_path / "law.json") == pythia_law()
    with pytest.raises(UserError, match="cannot be read"):
        named_law("none")
