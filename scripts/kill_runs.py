"""Kills runs of a tiny model with SIGKILL, calls them again, and compares the containers.

    python scripts/kill_runs.py [--kills 50] [--every 1] [--seed 0] [--json [FILE]]

A run has all stages: calibration with text, search, tuning, measured order, shards. Some are killed
at random moments, others just before a chosen call that renames a file or waits for the disk
(os.rename, os.replace, os.fsync): the first call of one run, the second of the next, and so on;
these runs have less text and a predicted order. Each is then called again until it ends. Its bytes
have to be those of a run that nobody disturbed.
Needs an operating system with SIGKILL.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bitstack.commands.shared import write_result
from bitstack.container.making import MADE

CALLS = ("rename", "replace", "fsync")  # of os
_PRELOADED = ["bitstack.compression.pipeline", "transformers.models.llama.modeling_llama"]
RECIPE = {
    "num_samples": 20, "seq_len": 128, "order_samples": 1, "blocks": 2, "search_sweeps": 1,
    "joint_passes": 1, "tune_steps": 2, "target_bits": (2.0,),
}  # fmt: skip
FEW_CALLS = {"num_samples": 3, "seq_len": 24, "order": "predicted"}
SENTENCES = (
    "The boats came up the river before the wind had turned, and the miller counted them.",
    "Nobody in the town knew why he wrote their names into a book with a green cover.",
    "Years later his daughter found it in a wall, and read it aloud to her own children.",
)


@dataclass(frozen=True)
class Setup:
    """What every run is made of."""

    model: Path
    text: Path
    fields: dict[str, Any]


@dataclass
class Row:
    """One kind of kills, as `--json` holds it."""

    kind: str
    kills: int = 0
    resumed: int = 0  # runs that had left work to go on from, and went on
    same_bytes: int = 0

    def add(self, had_work: bool, same: bool) -> None:
        self.kills += 1
        self.resumed += had_work
        self.same_bytes += same


def make_setup(folder: Path, **fields: Any) -> Setup:
    """Writes a Llama of a few thousand random weights, its tokenizer and a text into `folder`."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({"<end>": 0} | {c: i + 1 for i, c in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=44, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        tie_word_embeddings=True, initializer_range=0.15, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>").save_pretrained(
        folder / "model"
    )
    rng = random.Random(0)
    (folder / "text.txt").write_text(" ".join(rng.choice(SENTENCES) for _ in range(200)))
    return Setup(folder / "model", folder / "text.txt", RECIPE | fields)


def compress_once(setup: Setup, output: Path, kill_at: int | None, counted: Any) -> None:
    """Runs one compression, which kills itself before call `kill_at`; `counted` gets all calls.

    It is the whole of a process of its own.
    """
    import torch

    from bitstack import compress

    torch.set_num_threads(1)
    for name in CALLS:
        setattr(os, name, _counting(getattr(os, name), kill_at, counted))
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    compress(setup.model, output, calibration=str(setup.text), **setup.fields)


def _counting(call: Callable[..., Any], kill_at: int | None, counted: Any) -> Callable[..., Any]:
    def counting(*args: Any, **kwargs: Any) -> Any:
        counted.value += 1
        if counted.value == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)

    return counting


class Runs:
    """Runs of one setup in processes of their own, and what an undisturbed one came to."""

    def __init__(self, setup: Setup, folder: Path) -> None:
        self.setup, self.folder = setup, folder
        # A server that has imported everything: every run is a fork of it, and starts at once.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self.run(folder / "warm-up")
        start = time.monotonic()
        self.calls = self.run(folder / "undisturbed")
        self.seconds = time.monotonic() - start
        self.expected = contents(folder / "undisturbed")

    def run(self, output: Path, *, kill_at: int | None = None, after: float | None = None) -> int:
        """Runs once, perhaps until it is killed; returns the counted calls.

        Raises:
            RuntimeError: It ended in another way.
        """
        counted = self._context.Value("i", 0)
        arguments = (self.setup, output, kill_at, counted)
        process = self._context.Process(target=compress_once, args=arguments)
        process.start()
        process.join(after)
        if after is not None:
            process.kill()
            process.join()
        allowed = {0} if kill_at is None and after is None else {0, -signal.SIGKILL}
        if process.exitcode not in allowed:
            raise RuntimeError(f"{output}: exit code {process.exitcode}, call {counted.value}")
        return int(counted.value)

    def killed(self, row: Row, **when: Any) -> None:
        """Kills a run, calls it again until it ends, and counts in `row` how that went."""
        output = self.folder / "killed"
        self.run(output, **when)
        had_work = (output / ".work").is_dir()
        whole = (output / "bitstack.json").is_file() and not had_work
        if not whole:  # or it would be refused: the folder holds a container
            self.run(output)
        row.add(had_work, contents(output) == self.expected)
        shutil.rmtree(output)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all files of a folder by their names, hidden ones too.

    All but the one that says how long the run took.
    """
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MADE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def at_random(runs: Runs, kills: int, seed: int) -> Row:
    """Kills runs at random moments."""
    rng, row = random.Random(seed), Row("at random moments")
    for _ in tqdm(range(kills), desc=row.kind, disable=None):
        runs.killed(row, after=rng.uniform(0, runs.seconds))
    return row


def at_calls(runs: Runs, every: int) -> Row:
    """Kills a run before every `every`-th counted call."""
    row = Row("before a rename or fsync")
    for call in tqdm(range(1, runs.calls + 1, every), desc=row.kind, disable=None):
        runs.killed(row, kill_at=call)
    return row


def print_table(rows: list[Row]) -> None:
    print(f"{'killed':<26} {'kills':>6} {'resumed':>8} {'same bytes':>11}")
    for row in rows:
        print(f"{row.kind:<26} {row.kills:>6} {row.resumed:>8} {row.same_bytes:>11}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="runs killed at random moments")
    parser.add_argument("--every", type=int, default=1, help="kill before every N-th call only")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the result to FILE; - is stdout"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bitstack-kill-") as name:
        setup = make_setup(Path(name))
        short = replace(setup, fields=setup.fields | FEW_CALLS)
        rows = [
            at_random(Runs(setup, Path(name, "whole")), options.kills, options.seed),
            at_calls(Runs(short, Path(name, "short")), options.every),
        ]
    if options.json != "-":
        print_table(rows)
    if options.json:
        write_result(options.json, [asdict(row) for row in rows])
    sys.exit(any(row.same_bytes < row.kills for row in rows))


if __name__ == "__main__":
    main()
