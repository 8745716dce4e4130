"""The commands as other tools call them: exit codes, output, and every kind of bad input.

Also covers `commands.tables`.
"""

import json
import logging
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import call, fails, python
from safetensors.torch import load_file, save_file

import pico
from bitstack.compression.pipeline import compress
from bitstack.kernels import which

SMALL = [
    "--blocks", "3", "--num-samples", "4", "--seq-len", "32", "--order-samples", "2",
    "--tune-steps", "5", "--joint-passes", "1",
]  # fmt: skip
NO_TEXT = ["--blocks", "2", "--calibration", "none", "--quiet"]
KEYS = [
    "model", "budget_bytes", "resident_bytes", "original_bytes", "bits_per_weight", "tokens",
    "window", "stride", "nll_per_token", "perplexity", "bits_per_byte",
]  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(pico.TEXT * 4)
    return file


@pytest.fixture(scope="module")
def model(pico_model: Callable[..., Path]) -> Path:
    return pico_model("llama-gqa")


@pytest.fixture(scope="module")
def container(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compress(model, tmp_path_factory.mktemp("cli") / "c", blocks=3, calibration="none")


# --help


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from bitstack.cli import app\n"
        f"try: app({args!r})\n"
        "finally: print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    result = python("-c", code)
    assert result.returncode == 0
    assert result.stdout.endswith("[]\n")


def test_help_answers_at_once() -> None:
    """At most half a second where a bare interpreter takes 25 ms; a ratio, for slow machines."""

    def seconds(*args: str) -> float:
        times = []
        for _ in range(4):
            start = time.perf_counter()
            python(*args)
            times.append(time.perf_counter() - start)
        return min(times)

    assert seconds("-m", "bitstack.cli", "run", "--help") < 20 * seconds("-c", "pass")


def test_every_command_explains_itself() -> None:
    listed = call("--help").stdout
    for command in ("demo", "run", "plan", "eval", "generate", "push", "report"):
        assert f"\n  {command} " in listed
        assert call(command, "--help").exit_code == 0


# run


def test_run_then_plan_eval_generate(model: Path, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    result = call("run", model, "--output", folder, "--calibration", text, *SMALL)
    assert result.exit_code == 0, result.output
    manifest = json.loads((folder / "bitstack.json").read_text())
    assert manifest["recipe"]["blocks"] == 3
    assert manifest["text"]["samples"] == 4
    for part in ("original", "floor", "everything", "left dense", "gate_proj.bias", "next"):
        assert part in result.stdout
    assert "warning" not in result.stderr

    plan = call("plan", folder, "--budget", "50%", "--budget", "2.5bpw", "--json", "-")
    rows = json.loads(plan.stdout)
    assert [row["budget"] for row in rows] == ["50%", "2.5bpw"]

    file = tmp_path / "eval.json"
    result = call(
        "eval", folder, "--budget", "2.5bpw", "--text", text, "--window", 32, "--json", file
    )
    assert result.exit_code == 0, result.output
    record = json.loads(file.read_text())
    assert list(record)[:2] == KEYS[:2]
    assert set(KEYS) <= set(record)
    assert record["resident_bytes"] == rows[1]["resident_bytes"]
    assert record["budget_bytes"] == rows[1]["budget_bytes"]

    result = call("generate", folder, "--budget", "100%", "--prompt", "The river")
    assert result.exit_code == 0
    assert result.stdout.startswith("The river")
    assert result.stderr == ""


def test_options_reach_the_recipe(model: Path, text: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("blocks: 2\nseed: 3\nembeddings: decompose\n")
    result = call(
        "run", model, "--output", tmp_path / "c", "--recipe", recipe, "--embeddings", "dense",
        "--damping", "0.5, 0.25", "--calibration", text, *SMALL[2:],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "c" / "bitstack.json").read_text())
    recipe = manifest["recipe"]
    assert (recipe["blocks"], recipe["seed"]) == (2, 3)
    assert recipe["damping"] == [0.5, 0.25]
    assert not {"embedding", "head"} & {stack["kind"] for stack in manifest["stacks"]}


def test_the_published_recipe(model: Path, text: Path, tmp_path: Path) -> None:
    result = call(
        "run", model, "--output", tmp_path / "c", "--recipe", "paper", "--rank", "1",
        "--calibration", text, "--order", "loss", *SMALL,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / "c" / "bitstack.json").read_text())
    assert {(s["format"], s["rank"]) for s in manifest["stacks"]} == {("signs", 1)}


@pytest.mark.parametrize(
    ("named", "begins"),
    [
        (["--calibration", "none"], "warning: no calibration text"),
        ([], "calibration: the general text that is shipped; --calibration FILE"),
    ],
)
def test_a_run_says_in_one_line_that_no_text_was_named(
    named: list[str], begins: str, model: Path, tmp_path: Path
) -> None:
    few = ["--recipe", "fast", *SMALL, "--tune-steps", "0", *named]
    result = python("-m", "bitstack.cli", "run", str(model), "--output", str(tmp_path / "c"), *few)
    assert result.returncode == 0
    (line,) = [line for line in result.stderr.splitlines() if "calibration" in line]
    assert line.startswith(begins)


def test_a_quiet_run_says_nothing(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("bitstack")
    try:
        few = ["--blocks", 1, "--calibration", "none", "--quiet"]
        result = call("run", model, "--output", tmp_path / "c", *few)
    finally:
        logger.setLevel(logging.NOTSET)
    assert (result.exit_code, result.output, caplog.text) == (0, "", "")
    assert (tmp_path / "c" / "bitstack.json").is_file()


# eval and plan


def test_eval_of_the_original(model: Path, text: Path) -> None:
    result = call("eval", model, "--text", text, "--window", 32, "--json", "-", "--quiet")
    record = json.loads(result.stdout)
    assert record["budget_bytes"] is None
    assert record["bits_per_weight"] == 32
    assert record["resident_bytes"] == record["original_bytes"]


def test_eval_at_a_level(container: Path, text: Path) -> None:
    result = call("eval", container, "--text", text, "--level", 2, "--max-tokens", 50)
    assert result.exit_code == 0, result.output
    assert "49 tokens" in result.stdout
    assert "level" in fails("eval", container, "--text", text, "--level", 4)
    both = fails("eval", container, "--text", text, "--level", 1, "--budget", "50%")
    assert "not both" in both


def test_plan_prints_every_budget(container: Path) -> None:
    result = call("plan", container, "--context", 64)
    assert result.exit_code == 0, result.output
    assert "64 tokens" in result.stdout
    *table, kernel = result.stdout.strip().splitlines()
    assert len([line for line in table if line.strip()]) == 3 + 7  # two lines of header and a rule
    assert kernel == f"kernel {which().name}: {which().reason}"


# bad input


def test_missing_folder(tmp_path: Path, text: Path) -> None:
    assert "no such folder" in fails("run", tmp_path / "no", "--output", tmp_path / "c")
    assert "no such folder" in fails("eval", tmp_path / "no", "--text", text)
    assert "no such folder" in fails("plan", tmp_path / "no")
    assert not (tmp_path / "c").exists()


def test_half_written_container(container: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(container, tmp_path / "c")
    shard = next((tmp_path / "c").glob("model.bitstack-*"))
    shard.write_bytes(shard.read_bytes()[:-8])
    assert shard.name in fails("generate", tmp_path / "c", "--prompt", "a")
    (tmp_path / "c" / "bitstack.json").unlink()
    for command in (["eval", "--text", text], ["plan"], ["generate", "--prompt", "a"]):
        assert "not a finished" in fails(command[0], tmp_path / "c", *command[1:])


def test_half_written_model(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    assert "cannot be read" in fails("run", tmp_path / "m", "--output", tmp_path / "c")
    file.unlink()
    assert "no model.safetensors" in fails("run", tmp_path / "m", "--output", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_budgets_that_cannot_be(container: Path) -> None:
    below = fails("plan", container, "--budget", "1kB")
    assert "below the floor" in below
    floor = json.loads(call("plan", container, "--json", "-").stdout)[0]["resident_bytes"]
    assert f"{floor} bytes" in below
    assert "1.5GiB" in fails("plan", container, "--budget", "3 bananas")
    assert "below the floor" in fails("generate", container, "--budget", "1%", "--prompt", "a")


def test_all_errors_of_a_recipe_at_once(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "bad.yaml"
    recipe.write_text("rnak: 3\nblocks: many\n")
    line = fails(
        "run", model, "--output", tmp_path / "c", "--recipe", recipe, "--method", "magic",
        "--damping", "0.1,much",
    )  # fmt: skip
    for part in ("did you mean rank?", "'many'", "'codes' or 'signs'", "'much'"):
        assert part in line
    assert not (tmp_path / "c").exists()


def test_usage_errors_exit_with_2(model: Path, tmp_path: Path) -> None:
    unknown = fails("run", model, "--output", tmp_path / "c", "--rnak", "1")
    assert "--rank" in unknown
    assert unknown.endswith("see compress-model run --help")
    assert "'--output'" in fails("run", model)
    assert "'compres'; see compress-model --help" in fails("compres")
    assert "--nope; see compress-model --help" in fails("--nope")
    assert "requires an argument; see compress-model plan --help" in fails("plan", "c", "--budget")
    number = fails("eval", model, "--text", "a.txt", "--window", "wide")
    assert "'--window'" in number
    assert "'wide'" in number
    deep = fails("metric", "gap", "teacher", "--student", "big")
    assert "'big' is no number above 0" in deep
    assert deep.endswith("; see compress-model metric gap teacher --help")


def test_a_group_without_a_command_prints_its_help() -> None:
    for group in ([], ["metric"], ["metric", "gap"]):
        result = call(*group)
        assert result.exit_code == 2
        assert "Commands:" in result.output


def test_text_that_cannot_be_used(model: Path, tmp_path: Path) -> None:
    output = ["--output", tmp_path / "c"]
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text(" \n")
    short.write_text("Too short.")
    assert "holds no text" in fails("run", model, *output, "--calibration", empty)
    assert "text too short" in fails("run", model, *output, "--calibration", short)
    assert "does not exist" in fails("run", model, *output, "--calibration", tmp_path / "no.txt")
    assert "holds no text" in fails("eval", model, "--text", empty)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("calibrated", [True, False])
def test_nan_in_weights(calibrated: bool, model: Path, text: Path, tmp_path: Path) -> None:
    state = load_file(model / "model.safetensors")
    state["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    shutil.copytree(model, tmp_path / "m")
    save_file(state, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    options = ["--calibration", text, *SMALL] if calibrated else NO_TEXT
    line = fails("run", tmp_path / "m", "--output", tmp_path / "c", *options)
    assert "model.layers.1.mlp.up_proj.weight" in line
    assert "NaN" in line
    assert not (tmp_path / "c" / "bitstack.json").exists()
    assert "no number" in fails("eval", tmp_path / "m", "--text", text)


def test_unknown_tensor_layout(model: Path, text: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "m")
    state = load_file(model / "model.safetensors")
    renamed = {name.replace("mlp", "ffn"): value for name, value in state.items()}
    save_file(renamed, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert "mlp" in fails("run", tmp_path / "m", "--output", tmp_path / "c")
    packed = {n: v.to(torch.int8) if v.ndim == 2 else v for n, v in state.items()}
    save_file(packed, tmp_path / "m" / "model.safetensors", {"format": "pt"})
    assert "I8" in fails("run", tmp_path / "m", "--output", tmp_path / "c")
    assert "I8" in fails("eval", tmp_path / "m", "--text", text)
    assert not (tmp_path / "c").exists()


def test_no_disk_space_is_known_before(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    line = fails("run", model, "--output", tmp_path / "c", *NO_TEXT)
    assert "1 B are free" in line
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("limit", [1000, 12_000])
def test_writing_that_fails_midway(limit: int, model: Path, text: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: the system refuses the write."""
    command = ["run", str(model), "--output", str(tmp_path / "c"), "--calibration", str(text)]
    result = python(
        "-m", "bitstack.cli", *command, *SMALL, "--quiet",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path / 'c'}")
    assert "cannot write" in line
    assert not (tmp_path / "c" / "bitstack.json").exists()
