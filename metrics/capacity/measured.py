"""Measures the information capacity of models by name, and predicts the loss of another size.

All models read the same documents; containers are measured at every budget. Does not define the
measure, see `metrics.capacity.information_capacity`, nor the prediction, see
`metrics.capacity.series`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.live.opening import Opened, open_model
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
    """The information capacity of one model on a text, with its size."""

    model: str  # folder or Hub name, as given
    budget_bytes: int | None  # None: no budget was given
    resident_bytes: int  # of the whole model
    text: str  # the source, as given
    text_sha256: str
    capacity: InformationCapacity

    def to_json(self) -> dict[str, Any]:
        """Returns all fields in one object, those of `capacity` among them."""
        fields = {name: getattr(self, name) for name in MeasuredCapacity.__dataclass_fields__}
        fields.pop("capacity")
        return fields | asdict(self.capacity)


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
    """Measures every model, containers at every budget, on the same documents.

    Args:
        paths: Containers and original models: folders, or names on the Hub.
        text: Source of the text, as in `original.text`.
        budgets: Budgets of the containers, for example "1.5GiB"; none loads everything.
        variant: "faithful" or "bytes".
        max_length: Tokens of a document ("faithful") or of a window ("bytes"); None for the model's
            positions, for "faithful" at most 1024.
        bias: Bits per token, of the variant "faithful"; None for −27.
        denominator: "flops", "bytes" or "nanoseconds", of the variant "bytes"; None for "flops".
        max_bytes: About how many bytes of the text to use; None uses all.
        device: "auto", "cpu" or "cuda".
        seed: Seed of the random draws behind the confidence intervals.
        progress: Show progress bars.

    Raises:
        UserError: an option of the other variant, or the text, a model or the measure is refused.
    """
    options = _options(variant, max_length, bias, denominator)
    texts = read_texts(text, max_bytes=max_bytes)
    digest = texts_sha256(texts)
    capacities = []
    for name, opened in opened_models(paths, budgets, device):
        pair = opened.model, opened.tokenizer
        if options.get("denominator") == "nanoseconds":
            options["seconds_per_token"] = seconds_per_token(opened.model)
        capacity = information_capacity(*pair, texts, seed=seed, progress=progress, **options)
        capacities.append(
            MeasuredCapacity(
                name, opened.budget_bytes, opened.resident_bytes, text, digest, capacity
            )
        )
    return capacities


def opened_models(
    paths: Sequence[str], budgets: Sequence[str], device: str
) -> Iterator[tuple[str, Opened]]:
    """Yields the name and the loaded model of every path, containers once for every budget.

    Args:
        paths: Containers and original models: folders, or names on the Hub.
        budgets: Budgets of the containers; none loads everything.
        device: "auto", "cpu" or "cuda".

    Raises:
        UserError: a model cannot be opened, or there are budgets but no container.
    """
    containers = [path for path in paths if is_container(locate(path).folder)]
    for path in paths:
        skip = not budgets or (containers and path not in containers)
        for budget in [None] if skip else budgets:
            yield path, open_model(path, budget=budget, device=device)


def predict(series: Sequence[MeasuredCapacity], path: str) -> Prediction:
    """Predicts the NLL of another size of a series.

    Args:
        series: Measured sizes of the series, of the variant "faithful".
        path: The model to predict; only its config is read.

    Raises:
        UserError: another variant, sizes measured at different lengths, or as in `predict_nll`.
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
            f"({', '.join(map(str, sorted(lengths)))} tokens); give one with --window"
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
