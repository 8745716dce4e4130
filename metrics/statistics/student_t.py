"""Student's t, for intervals around figures of few observations. Fits nothing; see
`least_squares`."""

from bitstack.machine.extras import require
from bitstack.metrics.statistics.bootstrap import LEVEL


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """Returns the half width, in standard errors, of a two-sided interval of `level`.

    Args:
        freedom: Degrees of freedom, at least 1.
        level: Share of intervals that hold the true value, for example 0.95.

    Raises:
        UserError: scipy is not installed.
    """
    require("scipy")
    from scipy import special  # not scipy.stats, which takes half a second to import

    return float(special.stdtrit(freedom, (1 + level) / 2))
