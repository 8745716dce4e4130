"""Peak memory of `compress-model run` on a Llama of random weights, and how two workers scale.

    python scripts/bench_workers.py                  # both, in about eight minutes on two cores
    python scripts/bench_workers.py --layers 16 --vocabulary 128256 --only memory   # a whole 1B

Builds a bf16 folder in the shape of Llama-3.2-1B (fewer layers and tokens unless asked) in a
temporary folder, runs one process with a single thread, then two workers with one thread each,
and compares their bytes. Memory is the largest resident set that was seen, sampled.
"""

import argparse
import json
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

from bitstack.commands.tables import console, table

_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]


@dataclass(frozen=True)
class Measured:
    """One run. `peak_bytes`: the largest resident set of one of its processes."""

    workers: int
    threads: int
    seconds: float
    peak_bytes: int


def build(folder: Path, *, layers: int, vocabulary: int, width: int) -> Path:
    """A bf16 Llama of random weights; at width 2048, 16 layers and 128256 tokens: 1B."""
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
    """Run `compress-model run` to its end and watch it. CalledProcessError where it fails."""
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
    """The largest resident set among a process and its descendants, sampled until it ends."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.process, self.peak = process, 0

    def run(self) -> None:
        while (peaks := _peaks(self.process)) is not None:
            self.peak = max(self.peak, *peaks, 0)
            time.sleep(0.2)


def _peaks(process: int) -> list[int] | None:
    """VmHWM of a process and its descendants in bytes; None when it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    if not found:  # a process that has ended and waits for its parent has no memory
        return None
    for child in children:
        found += _peaks(int(child)) or []
    return found


def same(one: Path, other: Path) -> bool:
    """Do two containers hold the same bytes?"""
    names = {p.name for p in one.iterdir()}
    files = names == {p.name for p in other.iterdir()}
    return files and all((one / n).read_bytes() == (other / n).read_bytes() for n in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--layers", type=int, default=4, help="of the 16 of the 1B model")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of 128256")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--only", choices=["memory", "workers"], help="memory: a single run")
    parser.add_argument("--recipe", default="fast")
    parser.add_argument("--option", action="append", default=[], help="of run: --option=--blocks=4")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        sizes = {"layers": given.layers, "vocabulary": given.vocabulary, "width": given.width}
        model = build(folder / "model", **sizes)
        options = ["--recipe", given.recipe, *given.option]
        rows = [run(model, folder / "one", workers=1, threads=1, options=options)]
        equal = None
        if given.only != "memory":
            rows.append(run(model, folder / "two", workers=2, threads=1, options=options))
            equal = same(folder / "one", folder / "two")
    shown = table(["workers", "threads each", "seconds", "times as fast", "peak GiB each"])
    for row in rows:
        ratio = rows[0].seconds / row.seconds
        peak = f"{row.peak_bytes / 2**30:.2f}"
        shown.add_row(
            str(row.workers), str(row.threads), f"{row.seconds:.1f}", f"{ratio:.2f}", peak
        )
    console().print(shown)
    if equal is not None:
        console().print(f"same bytes: {'yes' if equal else 'NO'}")
    if given.json:
        record = {"rows": [asdict(row) for row in rows], "same_bytes": equal}
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
