"""Information capacity of models and containers by name, and what it foretells of another size.

All of them read the same documents. The measure itself is `information_capacity`'s business, the
prediction `capacity_series`'s.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitstack.errors import UserError
from bitstack.live.opening import Opened, is_container, open_model
from bitstack.metrics.capacity.decode_speed import seconds_per_token
from bitstack.metrics.capacity.flops import published_flops
from bitstack.metrics.capacity.information_capacity import (
    BIAS,
    InformationCapacity,
    information_capacity,
)
from bitstack.metrics.capacity.series import Prediction, predict_nll
from bitstack.metrics.loss.documents import read_texts, texts_sha256
from bitstack.original.hub_cache import locate
from bitstack.original.source import load_config


@dataclass(frozen=True)
class MeasuredCapacity:
    """One model as named, its size, and its capacity on a text."""

    model: str
    budget_bytes: int | None
    resident_bytes: int
    text: str
    text_sha256: str
    capacity: InformationCapacity

    def to_json(self) -> dict[str, Any]:
        """All fields of both in one object."""
        own = {name: getattr(self, name) for name in MeasuredCapacity.__dataclass_fields__}
        own.pop("capacity")
        return own | asdict(self.capacity)


def measure_capacity(
    paths: Sequence[str],
    text: str,
    *,
    budgets: Sequence[str] = (),
    variant: str = "faithful",
    max_length: int | None = None,
    bias: float | None = None,
    denominator: str | None = None,
    max_bytes: int | None = None,
    device: str = "auto",
    seed: int = 0,
    progress: bool = False,
) -> list[MeasuredCapacity]:
    """Every model of `paths`, containers at every budget, on at most `max_bytes` of `text`.

    `max_length` is in tokens; `bias` belongs to the variant "faithful", `denominator` to "bytes".
    Raises UserError for an option of the other variant, and what reading, opening and measuring
    refuse.
    """
    options = _options(variant, max_length, bias, denominator)
    texts = read_texts(text, max_bytes=max_bytes)
    digest = texts_sha256(texts)
    found = []
    for name, opened in opened_models(paths, budgets, device):
        pair = opened.model, opened.tokenizer
        if options.get("denominator") == "nanoseconds":
            options["seconds_per_token"] = seconds_per_token(opened.model)
        capacity = information_capacity(*pair, texts, seed=seed, progress=progress, **options)
        found.append(
            MeasuredCapacity(
                name, opened.budget_bytes, opened.resident_bytes, text, digest, capacity
            )
        )
    return found


def opened_models(
    paths: Sequence[str], budgets: Sequence[str], device: str
) -> Iterator[tuple[str, Opened]]:
    """Every model of `paths` in turn, containers at every budget (all there is without one).

    Raises UserError for budgets where there is no container.
    """
    containers = [path for path in paths if is_container(locate(path).folder)]
    for path in paths:
        skip = not budgets or (containers and path not in containers)
        for budget in [None] if skip else budgets:
            yield path, open_model(path, budget=budget, device=device)


def predict(series: Sequence[MeasuredCapacity], path: str) -> Prediction:
    """NLL to expect of the model `path`, of which only the config is read, from its series.

    For the variant "faithful". Raises UserError for the other, and as `predict_nll`.
    """
    capacities = [one.capacity for one in series]
    if capacities[0].variant != "faithful":
        raise UserError("--predict: works with variant 'faithful' only")
    return predict_nll(
        capacities, published_flops(load_config(locate(path).folder), _length(capacities))
    )


def _length(capacities: Sequence[InformationCapacity]) -> int:
    lengths = {one.max_length for one in capacities}
    if len(lengths) > 1:
        raise UserError(
            f"--predict: the series was measured at {len(lengths)} lengths "
            f"({', '.join(map(str, sorted(lengths)))} tokens); give one with --max-length"
        )
    return lengths.pop()


def _options(
    variant: str, max_length: int | None, bias: float | None, denominator: str | None
) -> dict[str, Any]:
    both = {"variant": variant, "max_length": max_length}
    if variant == "bytes":
        if bias is not None:
            raise UserError("--bias: belongs to --variant faithful; 'bytes' has none")
        return both | {"denominator": denominator or "flops"}
    if denominator is not None:
        raise UserError("--denominator: belongs to --variant bytes; 'faithful' takes FLOPs")
    return both | {"bias": BIAS if bias is None else bias}
