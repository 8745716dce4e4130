"""How the best capacity density grows with time, and what follows from it.

`ln ρ_max = A t + B`, t in days, on the envelope: the models that were the densest so far when they
came out (Densing Law, arXiv 2412.04315 v2, section 4.2: A ≈ 0.007, doubling in about 95 days). The
densities come from `capacity_density`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from scipy import stats

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import LEVEL, Interval
from bitstack.metrics.statistics.least_squares import monotone

HARDWARE_YEARS = 2.1  # in which chips of one price double in operations per second (the paper)
DAYS_PER_YEAR = 365


@dataclass(frozen=True)
class Released:
    """A model, the day it came out and its density."""

    name: str
    day: date
    density: float


@dataclass(frozen=True)
class Trend:
    """`growth` A per day, and what it means. Intervals need 3 models on the envelope.

    `intercept` is ln ρ on the day `start`; `doubling_days` is None where density does not grow.
    """

    growth: float
    growth_interval: Interval | None
    start: str
    intercept: float
    r_squared: float | None
    doubling_days: float | None
    doubling_interval: Interval | None
    envelope: tuple[str, ...]


@dataclass(frozen=True)
class Forecast:
    """A trend, and the day on which a model of `share` of the size is as good as one of `since`.

    `day_interval` comes from the trend's growth; None where that has none above 0.
    """

    trend: Trend
    fixed_price_doubling_days: float | None  # with hardware growing as well
    share: float | None
    since: str | None
    day: str | None
    day_interval: tuple[str, str] | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PriceFall:
    """How a price for the same quality fell."""

    factor: float
    halving_days: float


def read_released(path: str | Path) -> list[Released]:
    """A JSON list of objects with name, date (YYYY-MM-DD) and density, in any order.

    Raises UserError naming the row and the field that cannot be used.
    """
    try:
        rows = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); check the file") from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of objects with name, date and density")
    return [_released(row, f"{path} row {index}") for index, row in enumerate(rows, start=1)]


def envelope(models: Sequence[Released]) -> list[Released]:
    """The models denser than all that came out before, by date; of one day the densest."""
    best: list[Released] = []
    for model in sorted(models, key=lambda m: (m.day, -m.density)):
        if not best or model.density > best[-1].density:
            best.append(model)
    return best


def fit_trend(models: Sequence[Released]) -> Trend:
    """Fit ln ρ_max over days; the order of `models` does not matter.

    Raises UserError if fewer than two models of different days are on the envelope.
    """
    best = envelope(models)
    if len(best) < 2:
        raise UserError(
            f"{len(models)} models, {len(best)} of them on the envelope: a trend needs at least 2 "
            "that were the densest when they came out"
        )
    start = best[0].day
    days = [(model.day - start).days for model in best]
    line = stats.linregress(days, [math.log(model.density) for model in best])
    growth, freedom, interval = float(line.slope), len(best) - 2, None
    if freedom > 0:
        half = float(stats.t.ppf((1 + LEVEL) / 2, freedom) * line.stderr)
        interval = Interval(growth - half, growth + half)
    positive = interval if interval is not None and interval.low > 0 else None
    return Trend(
        growth=growth,
        growth_interval=interval,
        start=start.isoformat(),
        intercept=float(line.intercept),
        r_squared=float(line.rvalue) ** 2 if freedom > 0 else None,
        doubling_days=doubling_days(growth) if growth > 0 else None,
        doubling_interval=monotone(positive, doubling_days),
        envelope=tuple(model.name for model in best),
    )


def forecast(path: str | Path, *, share: float | None = None, since: str | None = None) -> Forecast:
    """The trend of the models in a file, and by when `share` (0.5: half) of the size will do.

    `since` is the day (YYYY-MM-DD) of the model to be matched, the last of the file without one.
    Raises UserError as `read_released`, `fit_trend` and `same_quality_day`.
    """
    models = read_released(path)
    trend = fit_trend(models)
    growth, range_ = trend.growth, trend.growth_interval
    priced = fixed_price_doubling_days(growth) if growth > 0 else None
    if share is None:
        return Forecast(trend, priced, None, None, None, None)
    start = max(model.day for model in models) if since is None else _day(since)
    day = same_quality_day(growth, share, start)
    between = None
    if range_ is not None and range_.low > 0:
        days = [same_quality_day(end, share, start) for end in (range_.high, range_.low)]
        between = days[0].isoformat(), days[1].isoformat()
    return Forecast(trend, priced, share, start.isoformat(), day.isoformat(), between)


def doubling_days(growth: float) -> float:
    """Days in which density doubles: ln 2 / A. Raises UserError unless `growth` is above 0."""
    if not growth > 0:
        raise UserError(f"growth is {growth} per day; density must grow for a doubling time")
    return math.log(2) / growth


def same_quality_day(growth: float, share: float, since: date) -> date:
    """When a model of `share` (0.5: half) of the size will be as good as one of the day `since`.

    Raises UserError unless 0 < share < 1 and `growth` (per day) is above 0.
    """
    if not 0 < share < 1:
        raise UserError(f"share is {share}; it must be between 0 and 1, 0.5 for half the size")
    days = math.log2(1 / share) * doubling_days(growth)
    try:
        return since + timedelta(days=math.ceil(days))
    except OverflowError:
        raise UserError(f"growth is {growth} per day: the day is beyond the calendar") from None


def fixed_price_doubling_days(growth: float, hardware_years: float = HARDWARE_YEARS) -> float:
    """Days in which the effective size that one price runs doubles: density and hardware together.

    `growth` per day; chips double in `hardware_years`. The paper's 88 days, from A = 0.007.
    """
    if not hardware_years > 0:
        raise UserError(f"hardware years is {hardware_years}; it must be above 0")
    return doubling_days(growth + math.log(2) / (hardware_years * DAYS_PER_YEAR))


def price_fall(before: float, after: float, days: float) -> PriceFall:
    """Factor and halving time of a price that fell from `before` to `after` within `days`.

    The paper's case: 20 to 0.075 dollars per million tokens, 266.7 times. Raises UserError unless
    it fell.
    """
    if not (before > after > 0 and days > 0):
        raise UserError(f"price {before} to {after} in {days} days: it must fall, and take time")
    factor = before / after
    return PriceFall(factor, days / math.log2(factor))


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"--since {text}: not a date; it must be YYYY-MM-DD") from None


def _released(row: Any, where: str) -> Released:
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object with name, date and density")
    value, day = row.get("density"), row.get("date")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{where}: density is {value!r}; it must be a number above 0")
    try:
        return Released(str(row.get("name", where)), date.fromisoformat(str(day)), float(value))
    except ValueError:
        raise UserError(f"{where}: date is {day!r}; it must be YYYY-MM-DD") from None
