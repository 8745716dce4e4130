"""Defines the two laws behind capacity density: loss from size and tokens, score from loss.

    L = a N^-α + b D^-β            S = c / (1 + exp(−γ (L − l))) + d

N is the parameters, D the training tokens, L the loss in nats, S the score of a reference series of
models (Densing Law, arXiv 2412.04315 v2, section 3; as published there is no irreducible loss; γ is
negative). N may count with or without embeddings, if the law and the scored models agree. Does not
fit the laws, see `metrics.density.fit`; does not compute a density, see
`metrics.density.capacity_density`.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitstack.errors import UserError
from bitstack.metrics.statistics.bootstrap import Interval
from bitstack.metrics.statistics.least_squares import Fit, monotone

REFERENCE_TOKENS = 1e12  # D₀ of the paper
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Reference:
    """One model of a reference series."""

    name: str
    parameters: float  # N
    tokens: float  # D, of training
    loss: float  # nats
    score: float  # from 0 to 1

    @classmethod
    def from_row(cls, row: dict[str, Any], name: str) -> "Reference":
        """Reads a JSON object.

        Raises:
            UserError: a field is missing or has no usable value; the message names it.
        """
        values = {}
        for field in ("parameters", "tokens", "loss", "score"):
            value = row.get(field)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UserError(f"reference {name}: {field} is {value!r}; it must be a number")
            if not math.isfinite(value) or value <= 0:
                raise UserError(f"reference {name}: {field} is {value}; it must be above 0")
            values[field] = float(value)
        if values["score"] > 1:
            raise UserError(f"reference {name}: score is {values['score']}; it must be at most 1")
        return cls(name=name, **values)


@dataclass(frozen=True)
class LossLaw:
    """L = a N^-α + b D^-β.

    The fit is in (ln aₘ, α, ln bₘ, β), where aₘ and bₘ are the two terms at the middle of the
    series: there the estimates hardly depend on one another, as a and α would.
    """

    fit: Fit
    middle: tuple[float, float]  # ln N and ln D, means over the series

    @property
    def parameters(self) -> dict[str, float]:
        """The constants a, alpha, b and beta."""
        return self._named(np.array(self.fit.estimates))

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """The interval of every constant; None where the series does not determine it."""
        n, d = self.middle
        of = self.fit.interval
        return {
            "a": monotone(of([1, n, 0, 0]), math.exp),
            "alpha": of([0, 1, 0, 0]),
            "b": monotone(of([0, 0, 1, d]), math.exp),
            "beta": of([0, 0, 0, 1]),
        }

    def loss(self, parameters: float, tokens: float, theta: Vector | None = None) -> Any:
        """Returns the loss, in nats, of a model of that size and training.

        Args:
            theta: Draws of the constants [k, 4], for k losses; None takes the fitted ones.
        """
        ln_a, alpha, ln_b, beta = self._columns(theta)
        n, d = self.middle
        size = np.exp(ln_a - alpha * (math.log(parameters) - n))
        return size + np.exp(ln_b - beta * (math.log(tokens) - d))

    def token_term(self, tokens: float, theta: Vector | None = None) -> Any:
        """Returns b D^-β: the loss that no size can undercut with `tokens` of training."""
        _, _, ln_b, beta = self._columns(theta)
        return np.exp(ln_b - beta * (math.log(tokens) - self.middle[1]))

    def size(self, loss: Any, tokens: float, theta: Vector | None = None) -> Any:
        """Returns N at a loss; not finite where the loss is at or below the token term."""
        ln_a, alpha, _, _ = self._columns(theta)
        rest = np.log(loss - self.token_term(tokens, theta))
        return np.exp(self.middle[0] + (ln_a - rest) / alpha)

    def _columns(self, theta: Vector | None) -> Any:
        return np.asarray(self.fit.estimates if theta is None else theta).T

    def _named(self, theta: Vector) -> dict[str, float]:
        ln_a, alpha, ln_b, beta = theta
        n, d = self.middle
        return {
            "a": math.exp(ln_a + alpha * n),
            "alpha": float(alpha),
            "b": math.exp(ln_b + beta * d),
            "beta": float(beta),
        }


@dataclass(frozen=True)
class ScoreLaw:
    """S = c / (1 + exp(−γ (L − l))) + d. The fit is in (ceiling c + d, ln −γ, l, floor d)."""

    fit: Fit

    @property
    def parameters(self) -> dict[str, float]:
        """The constants c, gamma, l and d."""
        top, steep, middle, d = self.fit.estimates
        return {"c": top - d, "gamma": -math.exp(steep), "l": middle, "d": d}

    @property
    def intervals(self) -> dict[str, Interval | None]:
        """The interval of every constant; None where the series does not determine it."""
        of = self.fit.interval
        return {
            "c": of([1, 0, 0, -1]),
            "gamma": monotone(of([0, 1, 0, 0]), lambda steep: -math.exp(steep)),
            "l": of([0, 0, 1, 0]),
            "d": of([0, 0, 0, 1]),
        }

    def score(self, loss: Any, theta: Vector | None = None) -> Any:
        """Returns the score expected at `loss`, in nats; `theta` as in `LossLaw.loss`."""
        top, steep, middle, d = np.asarray(self.fit.estimates if theta is None else theta).T
        return (top - d) / (1 + np.exp(np.exp(steep) * (loss - middle))) + d

    def loss(self, score: Any, theta: Vector | None = None) -> Any:
        """Returns L̂ of a score; not finite outside d < S < c + d."""
        top, steep, middle, d = np.asarray(self.fit.estimates if theta is None else theta).T
        return middle + np.log((top - d) / (score - d) - 1) / np.exp(steep)


@dataclass(frozen=True)
class Protocol:
    """How the losses of a series were measured.

    Nats per token do not compare across tokenizers, texts or windows, so a model must be measured
    in the same way. Nats per answer do: there are neither windows nor a tokenizer.
    """

    text: str  # what the loss was measured on, in words
    score: str  # what was scored, in words
    window: int | None  # tokens; None: the loss is of answers, given their instructions
    tokenizer: str | None  # `metrics.loss.documents.fingerprint`


@dataclass(frozen=True)
class DensityLaw:
    """Both laws, and the series they were fitted on."""

    loss: LossLaw
    score: ScoreLaw
    reference_tokens: float  # D₀, at which sizes are compared
    references: tuple[Reference, ...]
    protocol: Protocol | None = None  # None: not known how the series was measured
