"""Finds which teacher makes the best student: prunes several to one size, distils, compares.

The experiment of arXiv 2311.07052 at a small scale: every teacher is cut to the student's size by
mask-gradient importance (heads, neurons, width), and the student is then taught by the teacher it
was cut from, on the same tokens. Sizes count parameters without embeddings, since a small model is
mostly vocabulary. Every finished run is one line of the work file and is not run again.

    python scripts/pilot_capacity_gap.py --output recipes/capacity-gap-pilot.json
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from capacity_gap_pilot.distillation import distil
from capacity_gap_pilot.importance import Importance, measure_importance
from capacity_gap_pilot.pruning import (
    Shape,
    body_parameters,
    prune,
    student_shape,
)
from capacity_gap_pilot.summary import summarise, table
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bitstack.original import text

TITLE = "# Which teacher makes the best student? A pilot"
SHARED = Path(__file__).resolve().parents[2] / "shared"
TEACHERS = [*(f"series/s{i}" for i in range(1, 5)), "classics-5m"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    folders = [SHARED / "models" / name for name in TEACHERS]
    parser.add_argument(
        "--teachers", type=Path, nargs="+", default=folders, help="folders of the teacher models"
    )
    train = str(SHARED / "text/classics/train.txt.gz")
    parser.add_argument("--train", default=train, help="text that students are trained on")
    valid = str(SHARED / "text/classics/valid.txt.gz")
    parser.add_argument("--valid", default=valid, help="held-out text that students are scored on")
    sizes = [100_000, 200_000, 400_000, 800_000]
    parser.add_argument(
        "--students", type=int, nargs="+", default=sizes, help="parameters without embeddings"
    )
    parser.add_argument("--tokens", type=int, default=450_000, help="training tokens of one run")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--passages", type=int, default=256, help="windows of held-out text")
    parser.add_argument("--learning-rate", type=float, default=4e-3)
    parser.add_argument("--seeds", type=int, default=2, help="runs of every student and teacher")
    parser.add_argument(
        "--minutes", type=float, default=55, help="CPU minutes after which no run is started"
    )
    work = Path(tempfile.gettempdir()) / "bitstack-capacity-gap-pilot.jsonl"
    parser.add_argument("--work", type=Path, default=work, help="finished runs, one per line")
    parser.add_argument("--note", default="", help="words to write below the table")
    parser.add_argument(
        "--output", type=Path, default=Path("capacity-gap-pilot.json"),
        help="file for the summary; the table is written beside it as .md",
    )  # fmt: skip
    return parser.parse_args()


class Bench:
    """Holds teachers and texts, each loaded once; `run` makes one student."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.teachers = {self.name(path): load(path) for path in options.teachers}
        tokenizer = AutoTokenizer.from_pretrained(options.teachers[0])
        train = text.token_ids(options.train, tokenizer).ids
        self.blocks = train[: len(train) // options.window * options.window].view(
            -1, options.window
        )
        valid = text.token_ids(options.valid, tokenizer).ids
        self.valid = text.windows(valid, options.window, count=options.passages, seed=0)
        self.importance: dict[str, Importance] = {}

    def name(self, path: Path) -> str:
        return "/".join(path.parts[-2:]) if path.parent.name == "series" else path.name

    def pairs(self) -> Iterator[tuple[int, int, str]]:
        """Yields (seed, student size, teacher) of every run, all of one seed before the next."""
        for seed in range(self.options.seeds):
            for size in self.options.students:
                for name, teacher in self.teachers.items():
                    if body_parameters(teacher) >= size:
                        yield seed, size, name

    def run(self, seed: int, size: int, name: str) -> dict:
        """Prunes the teacher `name` to `size`, distils, and returns the student's losses."""
        start, teacher = time.process_time(), self.teachers[name]
        shape = student_shape(teacher, size)
        student = prune(teacher, self.importance_of(name), shape)
        before = losses(student, self.valid).mean().item()
        answers = load(Path(str(teacher.name_or_path)), torch.bfloat16)
        distil(
            student,
            answers,
            self.sample(seed),
            learning_rate=self.options.learning_rate,
            autocast=True,
            seed=seed,
        )
        result = [round(loss, 4) for loss in losses(student, self.valid).tolist()]
        seconds = round(time.process_time() - start, 1)
        return self.key(seed, size, name) | self.sizes(teacher, student, shape) | {
            "pruned_loss": round(before, 4), "losses": result, "cpu_seconds": seconds
        }  # fmt: skip

    def sample(self, seed: int) -> Tensor:
        """Returns the training blocks of a seed, the same for every teacher and student."""
        order = torch.randperm(len(self.blocks), generator=torch.Generator().manual_seed(seed))
        return self.blocks[order[: self.options.tokens // self.options.window]]

    def importance_of(self, name: str) -> Importance:
        if name not in self.importance:
            texts = self.blocks[:: len(self.blocks) // 64]
            self.importance[name] = measure_importance(self.teachers[name], texts)
        return self.importance[name]

    def key(self, seed: int, size: int, name: str) -> dict:
        """Returns the fields that tell one run from another in the work file."""
        options = self.options
        return {
            "seed": seed, "student": size, "teacher": name, "tokens": options.tokens,
            "window": options.window, "learning_rate": options.learning_rate,
            "passages": options.passages,
        }  # fmt: skip

    def sizes(self, teacher: PreTrainedModel, student: PreTrainedModel, shape: Shape) -> dict:
        return {
            "teacher_parameters": body_parameters(teacher),
            "student_parameters": body_parameters(student),
            "student_total": student.num_parameters(),
            "shape": vars(shape),
        }


def load(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@torch.no_grad()
def losses(model: PreTrainedModel, passages: Tensor) -> Tensor:
    """Returns the mean loss of each passage, nats per token: [count]."""
    each = []
    for ids in passages.split(16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].float()
        nll = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none"
        )
        each.append(nll.mean(1))
    return torch.cat(each)


def main() -> None:
    options = arguments()
    bench = Bench(options)
    lines = options.work.read_text().splitlines() if options.work.exists() else []
    done = [json.loads(line) for line in lines]
    for seed, size, name in bench.pairs():
        key = bench.key(seed, size, name)
        if any(key.items() <= run.items() for run in done):
            continue
        if time.process_time() > 60 * options.minutes:
            break
        done.append(bench.run(seed, size, name))
        with options.work.open("a") as file:
            file.write(json.dumps(done[-1]) + os.linesep)
    teachers = {n: losses(t, bench.valid).mean().item() for n, t in bench.teachers.items()}
    summary = summarise(done, teachers) | {"note": options.note}
    options.output.write_text(json.dumps(summary, indent=1) + "\n")
    options.output.with_suffix(".md").write_text(f"{TITLE}\n\n{table(summary)}\n{options.note}\n")


if __name__ == "__main__":
    main()
