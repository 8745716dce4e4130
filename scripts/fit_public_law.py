"""Fits a density law on published results of public models: the Pythia suite on LAMBADA.

    git clone https://github.com/EleutherAI/pythia
    python scripts/fit_public_law.py pythia --output recipes/density-law-pythia.json

The repository (Apache-2.0) holds the results of lm-eval for checkpoints of eight models of 70M to
12B parameters (arXiv 2304.01373). The loss is the logarithm of the perplexity of LAMBADA: nats per
last word given its passage, conditional as the law wants it. The score is the accuracy. Runs no
model; see `fit_reference_law.py` for a series that is measured here.
"""

import argparse
import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitstack.commands.shared import errors_in_one_line
from bitstack.errors import UserError
from bitstack.metrics.density.fit import fit_law
from bitstack.metrics.density.law import Protocol, Reference
from bitstack.metrics.density.law_file import save_law

ADDRESS = "https://github.com/EleutherAI/pythia"
RESULTS = "evals/pythia-v1/pythia-{name}/zero-shot/*_step*.json"
# By the name in the results: the folder of the training configuration.
MODELS = {"70m": "70M", "160m": "160M", "410m": "410M", "1b-bf16": "1B", "1.4b": "1.4B",
          "2.8b": "2.8B", "6.9b": "6.9B", "12b": "12B"}  # fmt: skip
TOKENS_PER_STEP = 2_097_152  # 1,024 sequences of 2,048 tokens
FIRST_STEP = 13_000  # earlier checkpoints are within the fast start of the training
PROTOCOL = Protocol(
    text="last words of LAMBADA (OpenAI), nats per word", score="accuracy on LAMBADA (OpenAI)",
    window=None, tokenizer=None,
)  # fmt: skip
WORDS = 50_277  # tokens of the tokenizer, before the embedding is rounded up for parallel work


def parameters(text: str) -> int:
    """Returns the parameters of a model of the suite, from its training configuration.

    GPT-NeoX with untied embeddings: every layer has 12·d² weights and 13·d biases and norms.
    """
    fields = ("num-layers", "hidden-size", "model-parallel-size")
    layers, d, parts = (int(_find(rf'"{name}": (\d+)', text)) for name in fields)
    rows = math.ceil(WORDS / (128 * parts)) * 128 * parts
    return 2 * rows * d + layers * (12 * d * d + 13 * d) + 2 * d


def references(checkout: Path, first: int = FIRST_STEP) -> list[Reference]:
    """Returns loss and score of every checkpoint from step `first` on.

    Raises:
        UserError: the folder holds no such results.
    """
    rows = []
    for name, folder in MODELS.items():
        config = checkout / f"models/{folder}/pythia-{folder.lower()}.yml"
        for file in sorted(checkout.glob(RESULTS.format(name=name))):
            step = int(_find(r"step(\d+)", file.name))
            lambada = json.loads(file.read_text())["results"].get("lambada_openai")
            if step >= first and lambada:
                rows.append(_row(f"pythia-{folder.lower()}", step, config.read_text(), lambada))
    if not rows:
        raise UserError(f"{checkout}: no results of LAMBADA in it; give a clone of {ADDRESS}")
    return rows


def _row(model: str, step: int, config: str, lambada: dict[str, float]) -> Reference:
    return Reference(
        name=f"{model} step {step}",
        parameters=parameters(config),
        tokens=step * TOKENS_PER_STEP,
        loss=math.log(lambada["ppl"]),
        score=lambada["acc"],
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise UserError(f"{pattern}: not found; give a clone of {ADDRESS}")
    return found[1]


def source(checkout: Path) -> dict[str, Any]:
    """Returns where the results come from: address, commit, its date, licence."""
    log = ["git", "-C", str(checkout), "log", "-1", "--format=%H %cs", "--", "evals/pythia-v1"]
    done = subprocess.run(log, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise UserError(f"{checkout}: not a git clone; make one of {ADDRESS}")
    commit, day = done.stdout.split()
    return {
        "address": ADDRESS, "commit": commit, "date": day, "licence": "Apache-2.0",
        "paper": "arXiv 2304.01373",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("checkout", type=Path, help=f"clone of {ADDRESS}")
    parser.add_argument("--output", type=Path, required=True, help="write the law to this file")
    options = parser.parse_args()
    with errors_in_one_line():
        series = references(options.checkout)
        law = fit_law(
            series, reference_tokens=max(one.tokens for one in series), floor=0.0, ceiling=1.0
        )
        law = replace(law, protocol=PROTOCOL)
        save_law(law, options.output, source=source(options.checkout))
        print(f"{len(series)} checkpoints, wrote {options.output}")
        for part in (law.loss, law.score):
            print(f"{part.parameters}, residuals {part.fit.residual:.4f}")


if __name__ == "__main__":
    main()
