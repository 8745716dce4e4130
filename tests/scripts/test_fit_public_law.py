"""The law of public models, from a small clone of the same form; and the shipped file."""

import json
import math
import subprocess
import sys
from pathlib import Path

import fit_public_law as script
import pytest

from bitstack.metrics.density.law_file import load_law, pythia_law

CONFIG = '{{\n "model-parallel-size": {parts},\n "num-layers": {layers},\n "hidden-size": {d}\n}}'
SHAPES = {"70M": (1, 6, 512), "160M": (1, 12, 768), "12B": (4, 36, 5120)}


def clone(folder: Path) -> Path:
    """Results of three models that follow both laws, and one that is too early to count."""
    for name, (parts, layers, d) in SHAPES.items():
        config = folder / f"models/{name}/pythia-{name.lower()}.yml"
        config.parent.mkdir(parents=True)
        config.write_text(CONFIG.format(parts=parts, layers=layers, d=d))
        results = folder / f"evals/pythia-v1/pythia-{name.lower()}/zero-shot"
        results.mkdir(parents=True)
        for step in (1000, 13000, 43000, 143000):
            size = script.parameters(config.read_text())
            loss = 1e3 * size**-0.35 + 50 * (step * script.TOKENS_PER_STEP) ** -0.2
            lambada = {"ppl": math.exp(loss), "acc": 1 / (1 + math.exp(0.6 * (loss - 2.5)))}
            file = results / f"x_step{step}.json"
            file.write_text(json.dumps({"results": {"lambada_openai": lambada}}))
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "results"]):
        subprocess.run([*git, *command], check=True)
    return folder


def test_parameters_by_hand() -> None:
    sizes = [
        script.parameters(CONFIG.format(parts=p, layers=n, d=d)) for p, n, d in SHAPES.values()
    ]
    # By hand, with 50,304 rows of the two embeddings, and 50,688 where they lie on four devices.
    assert sizes == [70_426_624, 162_322_944, 11_846_072_320]


def test_a_law_is_fitted_and_says_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "law.json"
    words = ["fit", str(clone(tmp_path / "pythia")), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    law, record = load_law(output), json.loads(output.read_text())
    assert len(law.references) == 9
    assert law.loss.parameters["alpha"] == pytest.approx(0.35, abs=0.02)
    assert law.score.parameters["gamma"] == pytest.approx(-0.6, rel=1e-3)
    assert len(record["source"]["commit"]) == 40
    assert record["source"]["address"] == script.ADDRESS


def test_what_is_no_clone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["fit", str(tmp_path), "--output", str(tmp_path / "law.json")])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 2


def test_the_shipped_law_is_close_to_its_models() -> None:
    law = pythia_law()
    assert len(law.references) == 112
    assert law.protocol is not None
    assert law.protocol.window is None
    for one in law.references:
        predicted = law.loss.loss(one.parameters, one.tokens)
        assert abs(math.log(predicted / one.loss)) < 0.15, one.name
        assert abs(law.score.score(one.loss) - one.score) < 0.06, one.name
