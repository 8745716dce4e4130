"""What `bench_quality.py` takes for a model where no option says otherwise.

Does not open a model or a text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import smollm2
from peers import FRONTIER_ONLY, METHODS
from peers.limits import Limits


@dataclass(frozen=True)
class Preset:
    """Texts, sizes and settings for one model."""

    calibration: str | None = None  # file in shared/text
    text: str | None = None  # for the evaluation, likewise
    tokens: int = 100_000  # evaluated
    samples: int = 128  # calibration windows of the peers
    window: int = 256  # tokens, of the evaluation and of the calibration
    methods: tuple[str, ...] = tuple(m for m in METHODS if m not in FRONTIER_ONLY)  # in this order
    limits: Limits = field(default_factory=Limits)
    make: Callable[[Path], Path] | None = None  # makes the model's folder in another folder


# Calibration windows: as many as our default recipe calibrates with, spread over all the text that
# it also tunes on. Second moments need no more; `--samples 4096` gives peers all of it, at four
# times their time. A model of 135 million weights is too slow for that, and for every setting.
PRESETS = {
    "babyllama105": Preset(
        "tinystories/tinystories_train_head.txt", "tinystories/tinystories_val.txt",
        tokens=100_000, samples=1024,
    ),
    "classics-5m": Preset(
        "classics/train.txt.gz", "classics/valid.txt.gz", tokens=50_000, samples=1024
    ),
    smollm2.NAME: Preset(
        "wikitext-2-raw/wikitext2_train_5k.txt", "wikitext-2-raw/rotorquant-wikitext-test.txt",
        tokens=4096, samples=128, window=512, make=smollm2.folder,
        # Ours last: they are measured at the bytes of the others.
        methods=("llama.cpp", "rtn", "hqq", "gptq", "auto-round", "bitstack"),
        limits=Limits(
            groups=(64,),
            bits={"gptq": (2, 3, 4), "auto-round": (2, 3, 4)},
            types=(
                "IQ2_S", "Q2_K", "IQ3_XXS", "Q3_K_M", "IQ4_XS", "Q4_K_M", "IQ2_XXS", "IQ4_NL",
                "Q4_0", "Q4_K_S", "Q5_0",
            ),
            recipes=("fast", "no-text"),
            embeddings=True,
        ),
    ),
}  # fmt: skip


def name_of(model: Path) -> str:
    """Returns the name of a model's preset, in any case, or else of its folder."""
    known = {name.lower(): name for name in PRESETS}
    return known.get(str(model).lower(), model.resolve().name)


def folder_of(model: Path, work: Path) -> Path:
    """Returns the folder of a model; one that a preset makes is made in `work`.

    Raises:
        UserError: It cannot be made.
    """
    name = name_of(model)
    make = PRESETS[name].make if name in PRESETS else None
    return make(work) if make and str(model).lower() == name.lower() else model
