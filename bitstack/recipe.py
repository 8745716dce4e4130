"""How a model is compressed: the YAML schema, as a pydantic model.

The command line's options are made from these fields, so a field added here is an option there.
Recipes by name are the files of `bitstack.recipes`. Nothing is executed here.
"""

import difflib
import logging
from fnmatch import fnmatchcase
from functools import cache
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

from bitstack.errors import UserError
from bitstack.machine.sizes import parse_bytes

RENAMED = {
    "samples": "num_samples", "length": "seq_len", "together": "joint_planes",
    "sweeps": "search_sweeps", "passes": "joint_passes", "preference": "level_weights",
    "rounds": "refit_rounds", "scaling": "column_scaling", "tune_rate": "scale_lr",
    "tune_codes": "code_lr", "targets": "target_bits",
}  # fmt: skip
"""Fields by their names in version 0.1, which are still understood."""
RENAMED_BACK = {new: old for old, new in RENAMED.items()}

_log = logging.getLogger(__name__)

OVERRIDABLE = (
    "blocks", "chains", "damping", "joint_planes", "search_sweeps", "joint_passes",
    "level_weights", "refit_rounds", "rank", "svd", "dense",
)  # fmt: skip


def _bytes(value: Any) -> Any:
    """A size such as `200MB` as a number of bytes."""
    size = parse_bytes(str(value))
    if isinstance(value, bool) or size is None:
        raise ValueError("a size in bytes is expected, such as 200MB, 1.5GiB or 123456789")
    return int(size)


class Recipe(BaseModel):
    """Every field has a default: an empty file is a valid recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("default", description="What the recipe is called in the container.")
    method: Literal["codes", "signs"] = Field(
        "codes", description="codes: nested tables; signs: the published BitStack block."
    )
    blocks: int = Field(8, ge=1, le=32, description="Blocks in every stack (codes: at most 8).")
    chains: list[int] = Field(
        [4],
        description="codes: last level of each chain of levels that share their planes; the others "
        "share theirs. Planes of all chains lie on disk, memory holds those of one; 8: all share.",
    )
    embeddings: Literal["decompose", "dense"] = Field(
        "decompose", description="Whether embedding and LM head are decomposed too."
    )
    calibration: str = Field(
        "none",
        description="Text file, folder, FILE.jsonl, hf:DATASET[:CONFIG][:COLUMN], or none.",
    )
    num_samples: int = Field(
        128,
        ge=1,
        description="Calibration windows of `seq_len` tokens; tuning takes up to four times as "
        "many where the text is that long.",
    )
    seq_len: int = Field(
        2048,
        ge=2,
        description="Tokens of a window; a model that reads fewer gets more windows instead.",
    )
    damping: list[float] = Field(
        [0.5, 0.5, 0.2, 0.2, 1.0, 0.3, 0.1, 0.01],
        min_length=1,
        description="Identity added to the second moment at level 1, 2, …; the last repeats.",
    )
    joint_planes: list[int] = Field(
        [2, 2],
        description="codes: planes of the lowest chain chosen at once, group by group; then one by "
        "one.",
    )
    search_sweeps: int = Field(
        2, ge=0, le=20, description="codes: bit searches a round; 0: no search."
    )
    joint_passes: int = Field(
        4, ge=0, le=100, description="codes: times the whole codes are chosen again for all levels."
    )
    level_weights: list[float] = Field(
        [1.0], min_length=1, description="codes: weight of level 1, 2, … there; the last repeats."
    )
    refit_rounds: int = Field(
        2, ge=1, le=20, description="Rounds of choosing bits and refitting scales."
    )
    rank: int = Field(16, ge=1, description="signs: singular vectors of every block.")
    column_scaling: bool = Field(True, description="signs: scale columns by calibration norms.")
    svd: Literal["truncated", "full"] = Field("truncated", description="signs: which SVD.")
    order: Literal["loss", "perplexity"] = Field(
        "loss", description="loss: predicted loss per byte; perplexity: the published sort."
    )
    order_samples: int = Field(
        16,
        ge=1,
        description="Windows each loss that corrects or makes the order is measured on.",
    )
    tune_steps: int = Field(
        2000,
        ge=0,
        description="codes: steps of tuning against the original, and a tenth as many for the "
        "scales of the highest chain; 0: none.",
    )
    scale_lr: float = Field(
        0.01, gt=0, le=0.1, description="codes: Adam's rate for level 1; half for each level above."
    )
    overrides: dict[str, dict[str, Any]] = Field(
        {},
        description='Other fields for some matrices: {"*.down_proj": {blocks: 6}, "lm_head": '
        "{dense: true}}.",
    )
    shard_size: Annotated[int, BeforeValidator(_bytes)] = Field(
        0,
        ge=0,
        json_schema_extra={"metavar": "SIZE"},
        description="Most bytes of a file, such as 200MB; 0: a 32nd of all, 1 MiB to 1 GiB.",
    )
    code_lr: float = Field(
        0.004,
        ge=0,
        le=0.1,
        description="codes: how far a step of tuning at level 2 moves weights towards other codes, "
        "of the table's largest value, in a matrix of 128 columns; half for each level above, half "
        "for four times the columns; 0: codes stay.",
    )
    target_bits: list[float] = Field(
        [],
        description="codes: bits a weight that matter most: half of the steps of tuning are made "
        "near them; none: all budgets alike.",
    )
    seed: int = Field(0, ge=0, description="Seed of everything random.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to decompose.")

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, data: Any) -> Any:
        return current_names(data) if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.method == "codes" and self.blocks > 8:
            raise ValueError(f"blocks: {self.blocks} is too many for method codes; at most 8")
        if self.chains != sorted({*self.chains}) or any(end < 1 for end in self.chains):
            raise ValueError(f"chains: {self.chains}: levels from 1 on, each above the one before")
        if any(value < 0 for value in self.damping):
            raise ValueError(f"damping: {self.damping} holds a negative number; at least 0")
        if any(not 1 <= bits <= 16 for bits in self.target_bits):
            raise ValueError(f"target_bits: {self.target_bits}: bits a weight lie between 1 and 16")
        for pattern in self.overrides:
            self._overridden(pattern)
        return self

    def of(self, name: str) -> "Recipe":
        """The recipe of the matrix `name`: later patterns go before earlier ones."""
        recipe = self
        for pattern in self.overrides:
            if fnmatchcase(name, pattern):
                changed = recipe._overridden(pattern)
                recipe = changed.model_copy(update={"overrides": self.overrides})
        return recipe

    @property
    def ends(self) -> tuple[int, ...]:
        """The last level of every chain but the highest; of signs all levels share their blocks."""
        coded = self.method == "codes"
        return tuple(end for end in self.chains if coded and end < self.blocks)

    @property
    def tunes(self) -> bool:
        """Are scales and codes tuned, where there is text?"""
        return bool(self.tune_steps) and self.method == "codes"

    @property
    def fine_steps(self) -> int:
        """Steps of tuning for the highest of several chains, where only scales learn."""
        return max(1, round(self.tune_steps / 10)) if self.ends else 0

    def leaves_dense(self, name: str) -> bool:
        """Does the last override for the matrix `name` that speaks of `dense` say so?"""
        said = [
            o["dense"] for p, o in self.overrides.items() if fnmatchcase(name, p) and "dense" in o
        ]
        return bool(said and said[-1])

    def _overridden(self, pattern: str) -> "Recipe":
        """With the fields of one override. ValueError for what it must not hold."""
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
            problems = "; ".join(_problem(one) for one in error.errors())
            raise ValueError(f"overrides: {pattern!r}: {problems}") from None

    def write(self, file: Path, calibration: str) -> None:
        """As a YAML file that `load_recipe` takes, with `calibration` named so."""
        fields = self.model_dump(mode="json") | {"calibration": calibration}
        file.write_text(yaml.safe_dump(fields, sort_keys=False, allow_unicode=True))


def current_names(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe under the names they have now, those of `overrides` too.

    One line of the log says what an old name is now. ValueError for a field under both names.
    """
    renamed = {}
    for name, value in fields.items():
        new = RENAMED.get(name, name)
        if new in renamed or (new != name and new in fields):
            raise ValueError(f"{new}: also given as {RENAMED_BACK[new]}, its old name; give one")
        if new != name:
            _tell_of(name)
        if name == "overrides" and isinstance(value, dict):
            value = {k: current_names(v) if isinstance(v, dict) else v for k, v in value.items()}
        renamed[new] = value
    return renamed


def with_old_names(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a recipe under their old names too, for programs that read these."""
    return fields | {old: fields[new] for old, new in RENAMED.items() if new in fields}


@cache
def _tell_of(old: str) -> None:
    _log.warning("warning: recipe field %s is now called %s; both are read", old, RENAMED[old])


def load_recipe(source: str | Path | None = None, **overrides: Any) -> Recipe:
    """A recipe by name or file, with fields overridden: flag before file before default.

    UserError lists all that is wrong with it at once, with what is allowed.
    """
    source = source or "default"
    read, given = _read(source), {k: v for k, v in overrides.items() if v is not None}
    try:
        return Recipe.model_validate(current_names(read) | current_names(given))
    except ValidationError as error:
        problems = "; ".join(_problem(one) for one in error.errors())
        raise UserError(f"recipe {source}: {problems}") from None
    except ValueError as error:
        raise UserError(f"recipe {source}: {error}") from None


def _read(source: str | Path) -> dict[str, Any]:
    from bitstack import recipes

    path = Path(source)
    if not path.suffix and str(source) in recipes.names():
        path = recipes.named(str(source))
    if not path.is_file():
        raise UserError(
            f"recipe {source}: no such name or file; names: {', '.join(recipes.names())}"
        )
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, dict):
        raise UserError(f"recipe {path}: a mapping of fields is expected, not {data!r}")
    return {"name": path.stem} | data


def _problem(error: Any) -> str:
    """One fault of a recipe in words: field, value, what is allowed."""
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, Recipe.model_fields, n=1)
        hint = f", did you mean {near[0]}?" if near else ""
        return f"no field {name}{hint} (fields: {', '.join(Recipe.model_fields)})"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{name}: {error['input']!r}: {message}" if name else message
