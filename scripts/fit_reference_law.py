"""Measures the loss and the score of a series of models, and fits a density law on them.

    python scripts/fit_reference_law.py --output recipes/density-law-classics.json

The loss is the mean over windows of held-out text. The score is the share of minimal pairs (BLiMP)
whose acceptable sentence is the likelier. Takes any models, local or on the Hub; a model that was
measured is kept in the work file.
"""

import argparse
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from bitstack.errors import UserError
from bitstack.metrics.density import fit as density_fit
from bitstack.metrics.density import law_file as density_file
from bitstack.metrics.density.law import Protocol, Reference
from bitstack.metrics.loss.conditional_loss import minimal_pairs
from bitstack.metrics.loss.documents import fingerprint
from bitstack.metrics.loss.sequence_loss import sequence_losses
from bitstack.metrics.statistics.bootstrap import mean_interval
from bitstack.original import text

SHARED = Path(__file__).resolve().parents[2] / "shared"
SERIES = ["series/s1", "series/s2", "series/s3", "series/s4", "classics-5m"]
CHANCE = 0.5  # score of a model that guesses


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    models = [str(SHARED / "models" / name) for name in SERIES]
    parser.add_argument(
        "--models", nargs="+", default=models, help="model folders, or names on the Hub"
    )
    tokens = "training tokens of each model [default: from the train.json in its folder]"
    parser.add_argument("--tokens", type=int, nargs="+", help=tokens)
    text = SHARED / "text/classics/valid.txt.gz"
    parser.add_argument("--text", default=str(text), help="held-out text for the loss")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--windows", type=int, default=1024, help="number of windows")
    pairs = SHARED / "benchmarks/blimp.tar.gz"
    parser.add_argument("--pairs", type=Path, default=pairs, help="archive of BLiMP")
    parser.add_argument("--items", type=int, default=1000, help="pairs of every paradigm")
    work = Path(tempfile.gettempdir()) / "bitstack-reference-law.jsonl"
    parser.add_argument("--work", type=Path, default=work, help="file of the measured models")
    output = Path("density-law.json")
    parser.add_argument("--output", type=Path, default=output, help="write the law to this file")
    return parser.parse_args()


def measure(options: argparse.Namespace, name: str, tokens: int) -> dict:
    """Returns the row of one model: parameters, tokens, loss and score, with intervals."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(name, dtype="float32").eval()
    ids = text.token_ids(options.text, tokenizer).ids
    windows = text.windows(ids, options.window, count=options.windows, seed=0).tolist()
    losses = sequence_losses(model, windows, progress=True)
    means = losses.nats / losses.tokens
    paradigms, pairs = zip(*read_pairs(options.pairs, options.items), strict=True)
    score = minimal_pairs(model, tokenizer, pairs, paradigms, progress=True)
    loss_interval, body = mean_interval(means), model.num_parameters(exclude_embeddings=True)
    return key(options, name) | {
        "parameters": model.num_parameters(), "body_parameters": body, "tokens": tokens,
        "loss": means.mean(), "loss_interval": loss_interval and vars(loss_interval),
        "score": score.accuracy, "score_error": score.standard_error,
        "paradigms": {k: round(v, 3) for k, v in score.paradigms.items()},
    }  # fmt: skip


def key(options: argparse.Namespace, name: str) -> dict:
    """Returns what tells one measurement from another."""
    path = Path(name)
    return {
        "name": "/".join(path.parts[-2:]) if path.parent.name == "series" else path.name,
        "window": options.window, "windows": options.windows, "items": options.items,
    }  # fmt: skip


def read_pairs(archive: Path, items: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields (paradigm, (acceptable, unacceptable)) of the first `items` pairs of each paradigm."""
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda m: m.name):
            if member.name.endswith(".jsonl"):
                lines = files.extractfile(member).read().decode().splitlines()  # type: ignore[union-attr]
                for row in map(json.loads, lines[:items]):
                    yield Path(member.name).stem, (row["sentence_good"], row["sentence_bad"])


def trained_tokens(options: argparse.Namespace) -> list[int]:
    """Returns the training tokens of every model, from --tokens or the train.json in its folder."""
    if options.tokens:
        if len(options.tokens) != len(options.models):
            raise UserError(f"--tokens: {len(options.tokens)} given, {len(options.models)} models")
        return list(options.tokens)
    files = [Path(model) / "train.json" for model in options.models]
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise UserError(f"no {missing[0]}; give the training tokens of every model with --tokens")
    return [json.loads(file.read_text())["tokens"] for file in files]


def main() -> None:
    options = arguments()
    lines = options.work.read_text().splitlines() if options.work.exists() else []
    rows = [json.loads(line) for line in lines]
    chosen = []
    for name, tokens in zip(options.models, trained_tokens(options), strict=True):
        row = next((r for r in rows if key(options, name).items() <= r.items()), None)
        if row is None:
            row = measure(options, name, tokens)
            with options.work.open("a") as file:
                file.write(json.dumps(row) + os.linesep)
        chosen.append(row)
    points = [Reference.from_row(row, row["name"]) for row in chosen]
    largest = max(point.tokens for point in points)
    law = density_fit.fit_law(points, reference_tokens=largest, floor=CHANCE, ceiling=1.0)
    law = replace(law, protocol=protocol(options))
    density_file.save_law(law, options.output, measured=chosen)


def protocol(options: argparse.Namespace) -> Protocol:
    """Returns how the series was measured.

    Raises:
        UserError: The models do not share one tokenizer.
    """
    tokenizers = {fingerprint(AutoTokenizer.from_pretrained(model)) for model in options.models}
    if len(tokenizers) > 1:
        raise UserError("--models: they have several tokenizers; losses per token do not compare")
    text, pairs = ("/".join(Path(path).parts[-2:]) for path in (options.text, options.pairs))
    return Protocol(text=text, score=pairs, window=options.window, tokenizer=tokenizers.pop())


if __name__ == "__main__":
    main()
