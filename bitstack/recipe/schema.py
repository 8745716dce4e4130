"""The fields of a recipe as a pydantic model: names, types, defaults, limits, descriptions.

The options of `compress-model run` (see `commands.recipe_options`) and the page `docs/recipes.md`
(see `recipe.page`) are made from these fields. Does not read files; see `recipe.loading`.
"""

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bitstack.machine.sizes import parse_bytes
from bitstack.recipe.old_names import current_names
from bitstack.recipe.problems import describe

MOST_CODE_BLOCKS = 8  # a code fits into one byte
GENERAL, NO_TEXT = "general", "none"  # values of `calibration` that are no source of a text
OVERRIDABLE = (
    "blocks", "chains", "damping", "joint_planes", "search_sweeps", "joint_passes",
    "joint_levels", "level_weights", "refit_rounds", "rotation", "outliers", "rank", "svd", "dense",
)  # fmt: skip
"""What `overrides` may set for some matrices: these fields, and `dense`."""


def _bytes(value: Any) -> Any:
    size = parse_bytes(str(value))
    if isinstance(value, bool) or size is None:
        raise ValueError("a size in bytes is expected, such as 200MB, 1.5GiB or 123456789")
    return int(size)


def matches(name: str, pattern: str) -> bool:
    """Tells whether the key `pattern` of `overrides` is for the matrix `name`.

    A pattern that matches all of a tensor is for its numbered parts too: `*.embed_tokens` for
    `model.embed_tokens.3`, its fourth part.
    """
    return fnmatchcase(name, pattern) or fnmatchcase(re.sub(r"\.\d+$", "", name), pattern)


class Recipe(BaseModel):
    """How a model is compressed: the fields of a recipe file, as an immutable pydantic model.

    Every field has a default, so `Recipe()` and an empty file are valid. Each field is also a
    keyword of `bitstack.compress` and an option of `compress-model run`, whose `--help` describes
    it. Use `bitstack.load_recipe` to start from a recipe by name or from a file.

    Raises:
        pydantic.ValidationError: A field is unknown or out of range.

    Example:
        >>> import bitstack
        >>> recipe = bitstack.Recipe(blocks=4, tune_steps=0, calibration="text.txt")
        >>> recipe.seed
        0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Most used first: the options of `run` and docs/recipes.md keep this order.
    calibration: str = Field(
        GENERAL,
        json_schema_extra={"metavar": "SOURCE"},
        description="Text of the kind the model is used on: a text file, a folder of text files, "
        "FILE.jsonl, FILE.json or hf:DATASET[:CONFIG][:COLUMN]. general is a mixture that is "
        "shipped: prose, code, data, dialogue. none takes no text, which needs no tokenizer and "
        "loses much more quality.",
    )
    blocks: int = Field(
        8,
        ge=1,
        le=32,
        description="Blocks made of every matrix. A block holds 1 bit per weight, so the largest "
        "model that the container gives has about this many bits per weight. Fewer blocks save "
        "time and disk. At most 8 with method codes.",
    )
    num_samples: int = Field(
        128,
        ge=1,
        description="Windows of `seq_len` tokens that are read from the calibration text; tuning "
        "reads up to four times as many. More windows cost time and give better quality.",
    )
    seq_len: int = Field(
        2048,
        ge=2,
        description="Length of one window in tokens. A model that reads fewer tokens gets shorter "
        "windows and more of them.",
    )
    embeddings: Literal["decompose", "dense"] = Field(
        "decompose",
        description="Whether the embedding and the LM head are compressed too (decompose) or stay "
        "as they are (dense): better quality, and few bytes more where they are a small part of "
        "the model.",
    )
    tune_steps: int = Field(
        2000,
        ge=0,
        description="codes: Steps of tuning, in which scales and codes learn to give the original "
        "model's predictions; each step takes 2048 tokens. More steps cost time and give better "
        "quality; 0 turns tuning off.",
    )
    target_bits: list[float] = Field(
        [],
        description="codes: Sizes, in bits per weight, at which the model will mostly be used, "
        "for example 2.2,3.2. Half of the tuning steps and the choice of the order go by them. "
        "With none, all sizes count alike.",
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {},
        json_schema_extra={"metavar": "{PATTERN: {FIELD: VALUE}}"},
        description="Other values of some fields for the matrices whose name matches a pattern: "
        '{"*.down_proj": {blocks: 6}, "lm_head": {dense: true}}.',
    )
    seed: int = Field(
        0, ge=0, description="Seed of every random draw; the same seed gives the same container."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Where the model is compressed; auto takes a GPU if there is one."
    )
    shard_size: Annotated[int, BeforeValidator(_bytes)] = Field(
        0,
        ge=0,
        json_schema_extra={"metavar": "SIZE"},
        description="Largest size of one file of the container, for example 200MB; 0 takes a 32nd "
        "of the whole, within 1 MiB to 1 GiB. Smaller files let a small budget download less.",
    )
    name: str = Field(
        "default",
        description="Name of the recipe, which the container keeps. A YAML file without this field "
        "is named after the file.",
    )
    method: Literal["codes", "signs"] = Field(
        "codes",
        description="How a matrix is compressed: codes, the nested codes of this project; signs, "
        "the published BitStack blocks (arXiv 2410.23918). A field marked codes or signs belongs "
        "to that method only.",
    )
    chains: list[int] = Field(
        [4],
        description="codes: Last level of each chain: a group of levels that share their bit "
        "planes. 4: levels 1 to 4 share one set of planes, the levels above another. The folder "
        "holds every set, memory only the one in use. 8 makes one set: a smaller folder, worse "
        "from 5 bits on.",
    )
    damping: list[float] = Field(
        [0.5, 0.5, 0.2, 0.2, 1.0, 0.3, 0.1, 0.01],
        min_length=1,
        description="codes: Number added to the diagonal of the inputs' second moment (whose mean "
        "is 1) at level 1, 2, …; the last value repeats. A larger number at a low level loses a "
        "little there and gains more at the levels above.",
    )
    joint_planes: list[int] = Field(
        [2, 2],
        description="codes: Planes of the lowest chain whose bits are chosen together: 2,2 chooses "
        "planes 1 and 2 together, then 3 and 4; planes beyond the list are chosen one by one.",
    )
    search_sweeps: int = Field(
        3,
        ge=0,
        le=20,
        description="codes: Sweeps of the search for better bits in each of `refit_rounds`. 0 "
        "turns the search off, which is much faster and worse.",
    )
    refit_rounds: int = Field(
        2,
        ge=1,
        le=20,
        description="codes: Rounds in which the bits of new planes are searched and their scales "
        "are fitted again.",
    )
    joint_passes: int = Field(
        8,
        ge=0,
        le=100,
        description="codes: Passes in which all bits of a weight are chosen again for all levels "
        "of its chain at once. More passes cost time and give better quality; 0 leaves them out.",
    )
    joint_levels: int = Field(
        8,
        ge=1,
        le=MOST_CODE_BLOCKS,
        description="codes: Highest level of the chains that take those passes (`joint_passes`). "
        "4 leaves them out for a chain of levels 5 to 8: less time, and larger errors at levels 6 "
        "to 8. Without text all chains take them.",
    )
    rotation: Literal["auto", "always", "never"] = Field(
        "auto",
        description="codes: Whether the inputs of a matrix are rotated at random before it is "
        "coded. That spreads the few weights that are far larger than the others. auto tries both "
        "on some rows of every matrix and keeps the better; without text it rotates all.",
    )
    outliers: Literal["auto", "never"] = Field(
        "auto",
        description="codes: Whether the few weights that matter most are kept in 16 bits beside "
        "the codes, where that loses less than it costs in bytes. auto tries it on some rows of "
        "every matrix, with and without rotation.",
    )
    level_weights: list[float] = Field(
        [1.0],
        min_length=1,
        description="codes: How much the error of level 1, 2, … counts in those passes "
        "(`joint_passes`), relative to the others; the last value repeats. 2,1 favours level 1.",
    )
    scale_lr: float = Field(
        0.01,
        gt=0,
        le=0.1,
        description="codes: Learning rate of the scales of level 1 in tuning (Adam); every level "
        "above has half the rate of the one below.",
    )
    code_lr: float = Field(
        0.004,
        ge=0,
        le=0.1,
        description="codes: How far one tuning step moves a weight towards another code, as a "
        "share of the largest value in its table, given for level 2 of a matrix of 128 columns. It "
        "is halved with every level above, and for four times the columns. Lower it "
        "when tuning takes more steps; 0 keeps the codes and needs 2 instead of 5 bytes of memory "
        "per weight.",
    )
    order: Literal["loss", "predicted", "perplexity"] = Field(
        "loss",
        description="How the order of loading is found: loss, by the loss each block saves per "
        "byte, predicted and corrected by measurements; predicted, without the measurements, which "
        "take most of the time of a run without tuning; perplexity, the published sort, which "
        "measures the model once for every block.",
    )
    order_samples: int = Field(
        16,
        ge=1,
        description="Windows of `seq_len` tokens on which each loss behind the order is measured. "
        "More windows make the order better and slower to find.",
    )
    rank: int = Field(
        16, ge=1, description="signs: Singular vectors that scale the signs of every block."
    )
    column_scaling: bool = Field(
        True,
        description="signs: Whether columns are scaled by the size of their inputs in the "
        "calibration text before the decomposition.",
    )
    svd: Literal["truncated", "full"] = Field(
        "truncated",
        description="signs: How the singular vectors are computed: truncated, fast and nearly "
        "exact; full, exact and much slower.",
    )

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, data: Any) -> Any:
        return current_names(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.method == "codes" and self.blocks > MOST_CODE_BLOCKS:
            raise ValueError(
                f"blocks: {self.blocks} is too many for method codes; at most {MOST_CODE_BLOCKS}"
            )
        if self.chains != sorted({*self.chains}) or any(end < 1 for end in self.chains):
            raise ValueError(
                f"chains: {self.chains}: give levels from 1 on, each above the one before, such as "
                "[2, 4]"
            )
        if any(value < 0 for value in self.damping):
            raise ValueError(f"damping: {self.damping} holds a negative number; at least 0")
        if any(not 1 <= bits <= 16 for bits in self.target_bits):
            raise ValueError(f"target_bits: {self.target_bits}: bits a weight lie between 1 and 16")
        for pattern in self.overrides:
            self._overridden(pattern)
        return self

    def of(self, name: str) -> "Recipe":
        """Returns the recipe of the matrix `name`; a later pattern goes before an earlier one."""
        recipe = self
        for pattern in self.overrides:
            if matches(name, pattern):
                changed = recipe._overridden(pattern)
                recipe = changed.model_copy(update={"overrides": self.overrides})
        return recipe

    @property
    def ends(self) -> tuple[int, ...]:
        """The last level of every chain but the highest; empty for method signs, which has one."""
        coded = self.method == "codes"
        return tuple(end for end in self.chains if coded and end < self.blocks)

    @property
    def tunes(self) -> bool:
        """Whether scales and codes are tuned, provided there is a calibration text."""
        return bool(self.tune_steps) and self.method == "codes"

    @property
    def fine_steps(self) -> int:
        """Steps of tuning on top of `tune_steps` for the highest of several chains.

        There only the scales learn, so a tenth of the steps is enough.
        """
        return max(1, round(self.tune_steps / 10)) if self.ends else 0

    def leaves_dense(self, name: str) -> bool:
        """Whether `overrides` keeps the matrix `name` dense; the last such pattern counts."""
        values = [
            fields["dense"]
            for pattern, fields in self.overrides.items()
            if matches(name, pattern) and "dense" in fields
        ]
        return bool(values and values[-1])

    def _overridden(self, pattern: str) -> "Recipe":
        """Returns the recipe with one override. Raises ValueError for what it must not hold."""
        fields = self.overrides[pattern]
        for key, value in fields.items():
            if key not in OVERRIDABLE:
                raise ValueError(
                    f"overrides: {pattern!r} holds {key}; allowed: {', '.join(OVERRIDABLE)}"
                )
            if key == "dense" and not isinstance(value, bool):
                raise ValueError(f"overrides: {pattern!r}: dense is {value!r}; true or false")
        changed = {k: v for k, v in fields.items() if k != "dense"}
        try:
            return Recipe.model_validate(self.model_dump() | changed | {"overrides": {}})
        except ValidationError as error:
            problems = describe(error, Recipe.model_fields)
            raise ValueError(f"overrides: {pattern!r}: {problems}") from None

    def write(self, file: Path, calibration: str) -> None:
        """Writes a YAML file that `load_recipe` reads, with this value of `calibration`."""
        fields = self.model_dump(mode="json") | {"calibration": calibration}
        file.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))
