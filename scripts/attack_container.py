"""Attacks a container in about a thousand ways, and prints how each ended.

Makes a small container (or two, for files of another one of the same shapes), damages a copy, and
opens and runs it in a child process with limits: bits that flip, files that are cut or belong to
another container, and containers that somebody made on purpose, with all checksums renewed. Every
attempt should be refused in one line that names the file, or be harmless: the same token ids and
the same logits.

    python scripts/attack_container.py
    python scripts/attack_container.py --model ../shared/models/stories260K --json attack.json
    python scripts/attack_container.py --sample 100 --seed 1

Linux only: it forks, and limits time and memory of its children.
"""

import argparse
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from attack.faults import Fault, cuts, flips, swaps
from attack.hostile import hostile
from attack.layout import Layout
from attack.trial import Outcome, attempt
from tqdm import tqdm
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import bitstack
from bitstack.machine.files import write_json
from bitstack.original.side_files import copy_beside
from bitstack.recipes import demo_model

COLUMNS = ["refused", "traceback", "crash", "hang", "harmless", "silent"]
FIELDS: dict[str, Any] = {"recipe": "fast", "calibration": "none", "shard_size": "32kB"}


@dataclass
class Row:
    """What became of all faults of one kind."""

    fault: str
    tried: int = 0
    named: int = 0  # refused with the file or tensor in the message
    added_bytes: int = 0  # most resident memory of an attempt beyond that of the whole container
    outcomes: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """Returns all fields, and every outcome."""
        return asdict(self) | {"outcomes": {name: self.outcomes[name] for name in COLUMNS}}


@dataclass
class Result:
    """All rows, and what was not as it should be."""

    container_bytes: int
    plain: Outcome  # of the undamaged container
    rows: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, fault: Fault, outcome: Outcome) -> None:
        """Counts one attempt."""
        row = self.rows.setdefault(fault.kind, Row(fault.kind))
        kind = outcome.kind
        if kind == "opened":
            kind = "harmless" if outcome.digest == self.plain.digest else "silent"
        named = any(name in outcome.message for name in fault.named)
        row.tried += 1
        row.outcomes[kind] += 1
        row.named += kind == "refused" and named
        more = outcome.added_bytes - self.plain.added_bytes
        row.added_bytes = max(row.added_bytes, more)
        meant = fault.kind.startswith("hostile") and kind == "harmless"
        if kind not in ("refused", "harmless") or meant or (kind == "refused" and not named):
            self.problems.append(f"{fault.kind}: {fault.text}: {kind} {outcome.message}"[:300])


def attack(model: Path | None, *, seed: int = 0, sample: int | None = None) -> Result:
    """Makes containers, damages copies of one, and opens each.

    Args:
        model: Folder of a model to compress; None for a small random Llama.
        seed: Of the bits and bytes that are damaged.
        sample: How many of the faults to try; None for all.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        one, other = (_container(model, work / f"container-{i}", i) for i in (0, 1))
        layout, rng = Layout(one), random.Random(seed)
        faults = [*flips(layout, rng), *cuts(layout, rng), *swaps(layout, other), *hostile(layout)]
        if sample is not None:
            faults = rng.sample(faults, min(sample, len(faults)))
        size = sum(path.stat().st_size for path in one.iterdir())
        result = Result(size, attempt(one))
        for fault in tqdm(faults, desc="attack", disable=None):
            copy = work / "copy"
            shutil.copytree(one, copy)
            fault.damage(copy)
            result.add(fault, attempt(copy))
            shutil.rmtree(copy)
    return result


def _container(model: Path | None, folder: Path, seed: int) -> Path:
    source = model or _small_llama(folder.with_suffix(".model"), seed)
    return bitstack.compress(source, folder, **FIELDS, seed=seed)


def _small_llama(folder: Path, seed: int) -> Path:
    """Writes a Llama of random weights, some of them large, with the demo model's tokenizer."""
    torch.manual_seed(seed)
    demo = demo_model()
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=len(AutoTokenizer.from_pretrained(demo)), initializer_range=0.15,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1, 0.1)
        if name.endswith("proj.weight"):
            parameter.data.view(-1)[::501] *= 30
    model.save_pretrained(folder)
    copy_beside(demo, folder)
    return folder


def _print(result: Result) -> None:
    print(f"container: {result.container_bytes:,} bytes; undamaged: {result.plain.kind}")
    print(" | ".join(["fault", "tried", *COLUMNS, "named", "more memory"]))
    total = Row("all")
    for row in result.rows.values():
        total.tried += row.tried
        total.named += row.named
        total.added_bytes = max(total.added_bytes, row.added_bytes)
        total.outcomes += row.outcomes
    for row in (*result.rows.values(), total):
        counts = [str(row.outcomes[name]) for name in COLUMNS]
        memory = f"{row.added_bytes / 2**20:.1f} MiB"
        print(" | ".join([row.fault, str(row.tried), *counts, str(row.named), memory]))
    for problem in result.problems:
        print(problem)


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a small model to compress")
    parser.add_argument("--seed", type=int, default=0, help="of what is damaged")
    parser.add_argument("--sample", type=int, help="how many of the faults to try")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    result = attack(options.model, seed=options.seed, sample=options.sample)
    _print(result)
    if options.json:
        rows = [row.to_json() for row in result.rows.values()]
        record = {"seed": options.seed, "container_bytes": result.container_bytes}
        write_json(options.json, record | {"rows": rows, "problems": result.problems})


if __name__ == "__main__":
    main()
