"""Fits how the best capacity density grows with time, and predicts from it.

`ln ρ_max = A t + B`, t in days, on the envelope: the models that were the densest of all when they
came out (Densing Law, arXiv 2412.04315 v2, section 4.2: A ≈ 0.007, doubling in about 95 days). Does
not compute the densities; see `metrics.density.capacity_density`.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from bitstack.errors import UserError
from bitstack.machine.extras import require
from bitstack.machine.json_file import reason_of
from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.least_squares import monotone
from bitstack.metrics.statistics.student_t import t_quantile

HARDWARE_YEARS = 2.1  # in which chips of one price double in operations per second (same paper)
DAYS_PER_YEAR = 365


@dataclass(frozen=True)
class Released:
    """A model, the day it came out and its density."""

    name: str
    day: date
    density: float


@dataclass(frozen=True)
class Trend:
    """The fitted growth of density. Intervals and R² need 3 models on the envelope."""

    growth: float  # A, per day
    growth_interval: Interval | None
    start: str  # first day of the envelope
    intercept: float  # B: ln ρ on the day `start`
    r_squared: float | None
    doubling_days: float | None  # None where density does not grow
    doubling_interval: Interval | None
    envelope: tuple[str, ...]  # names, by date


@dataclass(frozen=True)
class Forecast:
    """A trend, and the day on which a model of `share` of the size is as good as one of `since`."""

    trend: Trend
    fixed_price_doubling_days: float | None  # with hardware growing as well
    share: float | None  # 0.5: half of the size
    since: str | None  # day of the model to be matched
    day: str | None
    day_interval: tuple[str, str] | None  # from that of the growth; None unless it is above 0

    def to_json(self) -> dict[str, Any]:
        """Returns plain values."""
        return asdict(self)


@dataclass(frozen=True)
class PriceFall:
    """How fast a price for the same quality fell."""

    factor: float  # first price over last price
    halving_days: float


def read_released(path: str | Path) -> list[Released]:
    """Reads a JSON list of objects with name, date (YYYY-MM-DD) and density, in any order.

    Raises:
        UserError: the file cannot be read, or a row cannot be used; the message names the field.
    """
    try:
        rows = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({reason_of(error)}); check the file"
        ) from None
    if not isinstance(rows, list):
        raise UserError(f"{path}: not a list of objects with name, date and density")
    return [_released(row, f"{path} row {index}") for index, row in enumerate(rows, start=1)]


def envelope(models: Sequence[Released]) -> list[Released]:
    """Returns the models denser than all that came out before, by date; of one day the densest."""
    best: list[Released] = []
    for model in sorted(models, key=lambda m: (m.day, -m.density)):
        if not best or model.density > best[-1].density:
            best.append(model)
    return best


def fit_trend(models: Sequence[Released]) -> Trend:
    """Fits ln ρ_max over days; the order of `models` does not matter.

    Raises:
        UserError: fewer than two models are on the envelope.
    """
    best = envelope(models)
    if len(best) < 2:
        raise UserError(
            f"{len(models)} models, {len(best)} of them on the envelope: a trend needs at least 2 "
            "that were the densest when they came out"
        )
    start = best[0].day
    days = [(model.day - start).days for model in best]
    require("scipy")
    from scipy import stats

    line = stats.linregress(days, [math.log(model.density) for model in best])
    growth, freedom, interval = float(line.slope), len(best) - 2, None
    if freedom > 0:
        half = t_quantile(freedom) * float(line.stderr)
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
    """Fits the trend of the models in a file, and predicts when a smaller model is as good.

    Args:
        path: As in `read_released`.
        share: Size of the smaller model over that of the model to be matched, for example 0.5; None
            predicts no day.
        since: Day (YYYY-MM-DD) of the model to be matched; None takes the last day of the file.

    Raises:
        UserError: as `read_released`, `fit_trend` and `same_quality_day`.
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
    """Returns the days in which density doubles: ln 2 / A.

    Raises:
        UserError: `growth` (A, per day) is not above 0.
    """
    if not growth > 0:
        raise UserError(f"growth is {growth} per day; density must grow for a doubling time")
    return math.log(2) / growth


def same_quality_day(growth: float, share: float, since: date) -> date:
    """Returns the day on which a model of `share` of the size is as good as one of the day `since`.

    Raises:
        UserError: `share` is not between 0 and 1, or `growth` (per day) is not above 0.
    """
    if not 0 < share < 1:
        raise UserError(f"share is {share}; it must be between 0 and 1, 0.5 for half the size")
    days = math.log2(1 / share) * doubling_days(growth)
    try:
        return since + timedelta(days=math.ceil(days))
    except OverflowError:
        raise UserError(f"growth is {growth} per day: the day is beyond the calendar") from None


def fixed_price_doubling_days(growth: float, hardware_years: float = HARDWARE_YEARS) -> float:
    """Returns the days in which the effective size that runs at one price doubles.

    Density and hardware grow together: arXiv 2412.04315 gets 88 days from A = 0.007.

    Args:
        growth: A, of density, per day.
        hardware_years: Years in which chips of one price double in operations per second.

    Raises:
        UserError: the growth of both together is not above 0.
    """
    if not hardware_years > 0:
        raise UserError(f"hardware years is {hardware_years}; it must be above 0")
    # Rates of exponential growth add up.
    return doubling_days(growth + math.log(2) / (hardware_years * DAYS_PER_YEAR))


def price_fall(before: float, after: float, days: float) -> PriceFall:
    """Returns the factor and the halving time of a price that fell from `before` to `after`.

    The case of arXiv 2412.04315: from 20 to 0.075 dollars per million tokens, 266.7 times.

    Raises:
        UserError: the price did not fall, or `days` is not above 0.
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
