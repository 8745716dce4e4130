"""Compares calibration texts for one model: none, the general text, its own samples, and files.

    python scripts/bench_calibration_text.py MODEL --text held-out.txt [FILE ...]
    python scripts/bench_calibration_text.py MODEL --text held-out.txt --recipe default --json -

Each text gives a container of the same recipe with as many calibration tokens. Printed are the KL
divergence from the original and the loss on the evaluation text with all matrices at levels 2, 3
and 4. Containers stay in the folder --work: a second run with the same texts makes none. Does not
measure itself; see `peers.bench`.
"""

import argparse
import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from own_samples import write_samples
from peers.bench import Bench
from peers.containers import made

from bitstack import load, recipes
from bitstack.calibration.windows import READ_FACTOR
from bitstack.commands.shared import errors_in_one_line, silence_libraries, write_result
from bitstack.commands.tables import console, table
from bitstack.compression.fingerprint import fingerprint
from bitstack.errors import UserError
from bitstack.original.weight_files import weight_files
from bitstack.recipe import GENERAL, NO_TEXT, Recipe, load_recipe

LEVELS = (2, 3, 4)
OWN = "own samples"


@dataclass(frozen=True)
class Row:
    """One calibration text at one level."""

    calibration: str  # none, general, own samples, or the name of a file
    level: int  # of every matrix
    bits_per_weight: float
    kl_per_token: float  # KL(original || model) in nats
    nll_per_token: float
    increase: float  # of the loss above the original's
    seconds: float  # to compress


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    work = Path(tempfile.gettempdir()) / "bitstack-calibration"
    option = parser.add_argument
    option("model", type=Path, help="folder of the original model")
    option("files", nargs="*", type=Path, metavar="FILE", help="more calibration texts")
    option("--text", type=Path, required=True, help="evaluation text file")
    option("--recipe", default="fast", help="recipe of all containers")
    option("--tokens", type=int, default=16_384, help="calibration tokens of every text")
    option("--eval-tokens", type=int, default=20_000, help="use only the first tokens of --text")
    option("--window", type=int, default=256, help="tokens of a window of the evaluation")
    option("--seed", type=int, default=0, help="seed of the model's own samples")
    option("--work", type=Path, default=work, help="folder for the containers and the samples")
    option("--json", metavar="FILE", help="write the rows to FILE; - is stdout")
    return parser.parse_intermixed_args()  # files may follow the options


def open_bench(options: argparse.Namespace) -> Bench:
    """Opens the model with its evaluation text."""
    options.work.mkdir(parents=True, exist_ok=True)
    return Bench(
        options.model, recipes.general_text(), options.text, options.work,
        tokens=options.eval_tokens, window=options.window, samples=1, length=options.window,
    )  # fmt: skip


def recipe_for(options: argparse.Namespace, source: str) -> Recipe:
    """Returns the recipe with a calibration text, of which it takes `--tokens`."""
    length = min(load_recipe(options.recipe).seq_len, options.tokens)
    count = max(1, options.tokens // length)
    return load_recipe(options.recipe, calibration=source, seq_len=length, num_samples=count)


def sources(bench: Bench, options: argparse.Namespace) -> dict[str, str]:
    """Returns the calibration texts by their names; writes the model's own samples."""
    texts = {NO_TEXT: NO_TEXT, GENERAL: GENERAL}
    wanted = options.tokens * (READ_FACTOR if load_recipe(options.recipe).tunes else 1)
    texts[OWN] = str(write_samples(bench, wanted, seed=options.seed))
    for file in options.files:
        if file.name in texts:
            raise UserError(f"{file}: a text of this name is compared already; rename the file")
        texts[file.name] = str(file)
    return texts


def measure(bench: Bench, options: argparse.Namespace, original: float) -> Iterator[Row]:
    """Yields a row for every calibration text and level; `original` is the original's loss."""
    for name, source in sources(bench, options).items():
        recipe = recipe_for(options, source)
        folder, seconds = made(bench, recipe, _container_name(bench, recipe))
        for level in LEVELS:
            model = load(folder, level=level)
            loss, kl = bench.loss(model), bench.divergence(model)
            bits = model.bitstack.bits_per_weight
            yield Row(name, level, bits, kl, loss, loss - original, seconds)


def _container_name(bench: Bench, recipe: Recipe) -> str:
    """Returns a name that changes with the model, the recipe, the text and the version."""
    source = recipe.calibration
    file = recipes.general_text() if source == GENERAL else Path(source)
    text = None if source == NO_TEXT else hashlib.sha256(file.read_bytes()).hexdigest()
    files = [bench.folder / "config.json", *weight_files(bench.folder)]
    return f"{recipe.name}-{fingerprint(files, recipe, text)[:12]}"


def line(row: Row) -> list[str]:
    """Returns the cells of a row in the table."""
    figures = [f"{row.bits_per_weight:.2f}", f"{row.kl_per_token:.4f}", f"{row.nll_per_token:.4f}"]
    return [
        row.calibration, str(row.level), *figures, f"{row.increase:+.4f}", f"{row.seconds:.0f}",
    ]  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Measures, prints the table and writes the rows."""
    bench = open_bench(options)
    original, rows = bench.loss(bench.model), []
    columns = ["calibration", "level", "bits per weight", "KL", "loss", "increase", "seconds"]
    printed = table(columns, left=["calibration"])
    for row in measure(bench, options, original):
        rows.append(row)
        printed.add_row(*line(row))
    if options.json != "-":
        console().print(printed)
        print(
            f"original: loss {original:.4f} nats per token of {options.text.name}; every text: "
            f"{options.tokens} tokens, recipe {options.recipe}"
        )
    settings = {name: getattr(options, name) for name in ("recipe", "tokens", "window", "seed")}
    record = {"model": bench.task.model, "text": options.text.name, "original": original}
    record |= {"evaluated": len(bench.text.ids)} | settings
    write_result(options.json, record | {"rows": [asdict(row) for row in rows]})


def main() -> None:
    silence_libraries()
    with errors_in_one_line():
        run(arguments())


if __name__ == "__main__":
    main()
