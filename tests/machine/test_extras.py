"""Without the packages of the extras: what needs one says so at once, and all else works."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bitstack.cli import app
from bitstack.errors import UserError
from bitstack.machine.extras import EXTRA_OF, require

ROOT = Path(__file__).parents[2]
NEEDS_LM_EVAL = "bitstack.metrics.tasks.harness"
IMPORT_ALL = """
import importlib, pkgutil, sys
hidden, skipped = sys.argv[1].split(), sys.argv[2]
sys.modules.update(dict.fromkeys(hidden))
import bitstack
for module in pkgutil.walk_packages(bitstack.__path__, "bitstack."):
    if module.name != skipped and not module.name.rpartition(".")[2].startswith("_cpu"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:  # triton comes with torch for GPUs only
            if error.name != "triton":
                raise
"""
RELEASED = '[{"name": "a", "date": "2024-01-01", "density": 1}, \
{"name": "b", "date": "2024-06-01", "density": 2}]'
TABLE = "student,teacher,loss\n" + "".join(
    f"{student},{student * times},{1 + (times - 3) ** 2}\n"
    for student in (1e6, 2e6)
    for times in (2, 3, 4)
)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`without("scipy", ...)`: as if these packages were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return hide


def test_the_message_says_what_to_install(without: Callable[..., None]) -> None:
    require(*EXTRA_OF)
    without("lm_eval")
    require("scipy", "matplotlib", "datasets")
    with pytest.raises(UserError) as caught:
        require("scipy", "lm_eval")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("lm_eval is not installed; install bitstack with its extra")
    assert str(caught.value).endswith('pip install -e ".[eval]"')


def test_a_folder_of_that_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's folder `datasets` in the working directory, from which Python is started."""
    (tmp_path / "datasets").mkdir()
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [PathFinder])
    with pytest.raises(UserError, match="datasets is not installed"):
        require("datasets")


@pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="not run from the sources")
def test_every_extra_brings_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for module, extra in EXTRA_OF.items():
        needed = project["optional-dependencies"][extra]
        assert [one for one in needed if one.startswith(module.replace("_", "-") + ">=")]
        assert not [one for one in project["dependencies"] if module.replace("_", "-") in one]


def test_every_module_can_be_imported_without_extras() -> None:
    """All but the one with a subclass of lm-eval's model."""
    subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, " ".join(EXTRA_OF), NEEDS_LM_EVAL],
        check=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("lm_eval", "eval {container} --tasks lambada --text {text} --json new.json"),
        ("lm_eval", "eval {container} --tasks lambada"),
        ("lm_eval", "report {container} --tasks lambada --text {text}"),
        ("lm_eval", "metric density score {container} --tasks lambada"),
        ("lm_eval", "metric density loss {container} --tasks lambada"),
        ("datasets", "eval {container} --text hf:someone/texts"),
        ("datasets", "run {model} --output new --calibration hf:someone/texts"),
        ("matplotlib", "demo --output new"),
        ("matplotlib", "push {container} someone/model --text {text} --dry-run"),
        ("uvicorn", "serve {container}"),
        ("openai", "serve {container} --budget 3bpw"),
        ("scipy", "metric gap teacher --student 350e6"),
        ("scipy", "metric gap teacher --student 350e6 --law scratch --training-tokens 1e9"),
        ("scipy", "metric gap fit {table}"),
        ("scipy", "metric density trend {released}"),
        ("scipy", "metric information-capacity {container} --text {text} --predict {model}"),
    ],
)
def test_a_command_says_what_is_missing_before_it_works(
    module: str,
    words: str,
    without: Callable[..., None],
    stacked: Callable[..., Path],
    pico_model: Callable[..., Path],
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit code 2, one line, nothing measured and nothing written."""
    released, table = tmp_path / "released.json", tmp_path / "table.csv"
    released.write_text(RELEASED)
    table.write_text(TABLE)
    container = stacked("llama-gqa")
    files = sorted(path.name for folder in (tmp_path, container) for path in folder.iterdir())
    places = {
        "container": container, "model": pico_model("llama-gqa"), "text": text_file,
        "released": released, "table": table,
    }  # fmt: skip
    monkeypatch.setattr("bitstack.metrics.loss.perplexity.perplexity", None)  # not to be called
    monkeypatch.setattr("bitstack.metrics.loss.sequence_loss.sequence_losses", None)
    monkeypatch.chdir(tmp_path)
    without(module)
    result = CliRunner().invoke(app, [word.format(**places) for word in words.split()])
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {module} is not installed")
    assert EXTRA_OF[module] in lines[0]
    assert files == sorted(
        path.name for folder in (tmp_path, container) for path in folder.iterdir()
    )
