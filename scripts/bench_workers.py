"""Measures the peak memory of `compress-model run`, and its time with one and with two processes.

    python scripts/bench_workers.py                  # about eight minutes on two cores
    python scripts/bench_workers.py --layers 16 --vocabulary 128256 --only memory   # a whole 1B

Makes a bf16 Llama of random weights in a temporary folder, with the shape of Llama-3.2-1B but
fewer layers and a smaller vocabulary by default. Compresses it with one process, then with two,
each with one thread, and checks that both write the same bytes. The peak is the largest resident
set of a process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from bitstack.commands.shared import write_result
from bitstack.commands.tables import console, table
from bitstack.container.making import MADE

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@dataclass(frozen=True)
class Measured:
    """One run of `compress-model run`."""

    workers: int  # processes
    threads: int  # of each
    seconds: float
    peak_bytes: int  # largest resident set of one of its processes


def build(folder: Path, *, layers: int, vocabulary: int, width: int) -> Path:
    """Writes a bf16 Llama of random weights; width 2048, 16 layers, 128256 tokens make a 1B."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
        num_attention_heads=width // 64, num_key_value_heads=width // 256, head_dim=64,
        intermediate_size=4 * width, tie_word_embeddings=True, max_position_embeddings=4096,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


def run(model: Path, output: Path, *, workers: int, threads: int, options: list[str]) -> Measured:
    """Runs `compress-model run` to its end and watches its memory.

    Raises:
        CalledProcessError: It fails.
    """
    start = [] if workers == 1 else [*_TORCHRUN, "--nproc-per-node", str(workers)]
    program = ["-m", "bitstack.cli", "run", str(model), "--output", str(output), "--quiet"]
    command = [*(start or [sys.executable]), *program, *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    begin = time.perf_counter()
    with subprocess.Popen(command, env=environment) as process:
        watch = _Watch(process.pid)
        watch.start()
        code = process.wait()
        watch.join()
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Measured(workers, threads, time.perf_counter() - begin, watch.peak)


class _Watch(threading.Thread):
    """Samples the largest resident set among a process and its descendants, until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = process, 0

    def run(self) -> None:
        while (peaks := _peaks(self.process)) is not None:
            self.peak = max(self.peak, *peaks, 0)
            time.sleep(0.2)


def _peaks(process: int) -> list[int] | None:
    """Returns the peaks (VmHWM) of a process and its descendants, in bytes; None once it ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return None
    peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    if not peaks:  # a process that has ended and waits for its parent has no memory
        return None
    for child in children:
        peaks += _peaks(int(child)) or []
    return peaks


def same(one: Path, other: Path) -> bool:
    """Returns whether two containers hold the same bytes, but for the time that a run took."""
    names = {p.name for p in one.iterdir()}
    files = names == {p.name for p in other.iterdir()}
    return files and all((one / n).read_bytes() == (other / n).read_bytes() for n in names - {MADE})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="layers; the 1B model has 16")
    parser.add_argument("--vocabulary", type=int, default=8192, help="tokens; the 1B has 128256")
    parser.add_argument("--width", type=int, default=2048, help="hidden size")
    parser.add_argument("--only", choices=["memory", "workers"], help="memory: one run only")
    parser.add_argument("--recipe", default="fast", help="recipe of the runs")
    option = "another option of `run`, for example --option=--blocks=4"
    parser.add_argument("--option", action="append", default=[], help=option)
    parser.add_argument("--json", metavar="FILE", help="write the result to FILE; - is stdout")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = {"layers": parsed.layers, "vocabulary": parsed.vocabulary, "width": parsed.width}
        model = build(folder / "model", **sizes)
        # The model has no tokenizer for a text.
        options = ["--recipe", parsed.recipe, "--calibration", "none", *parsed.option]
        rows = [run(model, folder / "one", workers=1, threads=1, options=options)]
        equal = None
        if parsed.only != "memory":
            rows.append(run(model, folder / "two", workers=2, threads=1, options=options))
            equal = same(folder / "one", folder / "two")
    printed = table(["workers", "threads each", "seconds", "times as fast", "peak GiB each"])
    for row in rows:
        ratio = rows[0].seconds / row.seconds
        peak = f"{row.peak_bytes / 2**30:.2f}"
        printed.add_row(
            str(row.workers), str(row.threads), f"{row.seconds:.1f}", f"{ratio:.2f}", peak
        )
    console().print(printed)
    if equal is not None:
        console().print(f"same bytes: {'yes' if equal else 'NO'}")
    if parsed.json:
        write_result(parsed.json, {"rows": [asdict(row) for row in rows], "same_bytes": equal})


if __name__ == "__main__":
    main()
