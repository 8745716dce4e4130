"""`torchrun` and `accelerate launch` themselves: one result, as of one process, printed once."""

import json
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import pico
from bitstack.compression.pipeline import compress
from bitstack.container.making import MADE
from bitstack.machine import device
from bitstack.metrics.loss.evaluation import evaluate
from bitstack.metrics.tasks.evaluation import evaluate_tasks

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch is built without torch.distributed"
)

COMMAND = str(Path(sysconfig.get_path("scripts")) / "compress-model")
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = [
    "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--main_process_port", "0",
]  # fmt: skip
FEW = {
    "num_samples": 3,
    "seq_len": 24,
    "order_samples": 1,
    "blocks": 3,
    "search_sweeps": 1,
    "joint_passes": 1,
}


def launched(launcher: list[str], *args: object) -> str:
    """Standard output of all processes together."""
    command = [sys.executable, "-m", *launcher, *(str(arg) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    words = pico.TEXT.split()
    rows = [json.dumps({"text": " ".join(words[i : i + 6])}) for i in range(0, 48, 6)]
    (folder / "lambada_test.jsonl").write_text("\n".join(rows))
    return folder


def test_accelerate_launch_shares_an_evaluation(
    pico_model: Callable[..., Path], text_file: Path, data: Path
) -> None:
    model = pico_model("llama-gqa")
    said = launched(
        ACCELERATE, "-m", "bitstack.cli", "eval", model, "--text", text_file, "--window", 16,
        "--tasks", "lambada", "--tasks-folder", data, "--json", "-",
    )  # fmt: skip
    alone = evaluate(model, str(text_file), window=16).to_json()
    scored = evaluate_tasks(model, ["lambada"], data).to_json()
    assert alone["tokens"] > 8 * 16  # several batches, so that both have a part
    assert json.loads(said) == json.loads(json.dumps(alone | scored))


def test_torchrun_shares_a_run(
    pico_model: Callable[..., Path], text_file: Path, tmp_path: Path
) -> None:
    model, fields = pico_model("llama-tied"), FEW | {"tune_steps": 2, "calibration": text_file}
    options = [
        part for name, value in fields.items() for part in (f"--{name.replace('_', '-')}", value)
    ]
    said = launched(
        TORCHRUN, COMMAND, "run", model, "--output", tmp_path / "two", *options, "--json", "-"
    )
    assert json.loads(said)["folder"] == str(tmp_path / "two")
    one = compress(model, tmp_path / "one", **fields | {"calibration": str(text_file)})
    names = sorted(file.name for file in one.iterdir())
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == names
    names.remove(MADE)  # how long the run took
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (one / name).read_bytes(), name


def test_every_process_of_a_machine_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device.pick_device("auto") == "cuda"
    for rank in ("0", "1", "2"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert device.pick_device("cuda") == "cuda"
        assert device.pick_device("cpu") == "cpu"
    assert chosen == [0, 1, 0]
