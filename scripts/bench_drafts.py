"""Measures whether drafts of a smaller budget make generation faster, and how many are right.

    python scripts/bench_drafts.py CONTAINER TEXT [--budget 4bpw] [--draft floor] [--json [FILE]]

Generates greedily at every budget, plain and with drafts of every smaller one, from beginnings of
the text. Plain and drafted generation take turns; a ratio above 1 says that drafts are faster. A
draft saves a step of the whole model for each of its tokens that is right, and costs one step of
the smaller model for each token, right or wrong. TEXT is a file; --budget and --draft may be
repeated.
"""

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bitstack import UserError, kernels, load
from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.original.source import load_tokenizer

BUDGETS = ("3bpw", "4bpw", "everything")
DRAFTS = ("floor", "2bpw", "3bpw")


@dataclass(frozen=True)
class Row:
    """Drafts of one budget for a model of another."""

    budget: str
    draft: str
    plain_ms: float  # a token, the median over the prompts
    drafted_ms: float
    ratio: float  # plain / drafted, the median over the prompts; above 1 drafts are faster
    accepted: float  # share of the drafted tokens that were right
    tokens_per_step: float  # of text, a step of the whole model


class Steps:
    """Counts the steps of a model and the tokens each of them looks at."""

    def __init__(self, model: Any) -> None:
        self.tokens: list[int] = []
        self.handle = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, _: Any, args: tuple[Any, ...], given: dict[str, Any]) -> None:
        self.tokens.append(given["input_ids"].shape[1])


def prompts(folder: Path, text: Path, count: int, tokens: int) -> list[Tensor]:
    """Returns `count` beginnings [1, tokens] at equal distances in the text.

    Raises:
        UserError: The text has too few tokens.
    """
    ids = load_tokenizer(folder)(text.read_text(encoding="utf-8"), return_tensors="pt")["input_ids"]
    if ids.shape[1] < count * tokens:
        raise UserError(
            f"{text}: has {ids.shape[1]} tokens, {count} prompts of {tokens} need "
            f"{count * tokens}; give a longer text"
        )
    starts = [i * (ids.shape[1] - tokens) // max(count - 1, 1) for i in range(count)]
    return [ids[:, start : start + tokens] for start in starts]


def timed(model: Any, ids: Tensor, new: int, **options: Any) -> float:
    """Returns the seconds of `new` tokens after the prompt."""
    start = time.perf_counter()
    out = model.generate(ids, do_sample=False, min_new_tokens=new, max_new_tokens=new, **options)
    assert out.shape[1] == ids.shape[1] + new
    return time.perf_counter() - start


def compare(model: Any, budget: str, draft: str, texts: Sequence[Tensor], new: int) -> Row:
    """Generates `new` tokens after every prompt, plain and drafted in turn."""
    steps = Steps(model)
    timed(model, texts[0], new, draft_budget=draft)  # the first is slow
    plain, drafted, checked, whole = [], [], 0, 0
    for ids in texts:
        plain.append(timed(model, ids, new))
        steps.tokens.clear()
        drafted.append(timed(model, ids, new, draft_budget=draft))
        # One token of a step is no draft's; the first step has the prompt instead.
        whole += len(steps.tokens)
        checked += sum(steps.tokens) - ids.shape[1] - (len(steps.tokens) - 1)
    steps.handle.remove()
    written = len(texts) * new
    accepted = (written - whole) / checked if checked else 0.0
    return Row(
        budget, draft, 1e3 * statistics.median(plain) / new, 1e3 * statistics.median(drafted) / new,
        statistics.median(a / b for a, b in zip(plain, drafted, strict=True)), accepted,
        written / max(whole, 1),
    )  # fmt: skip


def measure(folder: Path, text: Path, options: argparse.Namespace) -> Iterator[Row]:
    """Yields a row for every pair of a budget and a smaller one."""
    texts = prompts(folder, text, options.prompts, options.prompt_tokens)
    pairs = [(b, d) for b in options.budget or BUDGETS for d in options.draft or DRAFTS]
    model = load(folder)
    for budget, draft in tqdm(pairs, desc="drafts", disable=None):
        model.bitstack.resize(budget)
        try:
            yield compare(model, budget, draft, texts, options.tokens)
        except UserError as error:  # the draft would be the model itself
            tqdm.write(f"{budget} drafted by {draft}: {error}")


def print_table(rows: Sequence[Row]) -> None:
    print(f"kernel {kernels.which().name}, {torch.get_num_threads()} threads")
    print(f"{'budget':<11} {'draft':<7} {'plain ms':>9} {'drafted ms':>11} {'ratio':>6}"
          f" {'right':>6} {'tokens a step':>14}")  # fmt: skip
    for row in rows:
        print(f"{row.budget:<11} {row.draft:<7} {row.plain_ms:>9.2f} {row.drafted_ms:>11.2f}"
              f" {row.ratio:>6.2f} {row.accepted:>6.0%} {row.tokens_per_step:>14.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("container", type=Path)
    parser.add_argument("text", type=Path, help="a text file, from which the prompts are taken")
    parser.add_argument("--budget", action="append", help="of the model; may be repeated")
    parser.add_argument("--draft", action="append", help="budget of drafts; may be repeated")
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64, help="generated after each prompt")
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="write the rows to FILE; - is stdout"
    )
    options = parser.parse_args()
    silence_libraries()
    with errors_in_one_line():
        rows = list(measure(options.container, options.text, options))
    if options.json != "-":
        print_table(rows)
    if options.json:
        write_result(options.json, {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
