"""Computes the densities of models whose score is known: from their sizes, without loading them.

Does not measure a score or a loss; see `metrics.density.scoring`. Does not compute the density; see
`metrics.density.capacity_density`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from bitstack.container.levels import budget_bytes, choose_levels
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.recognition import is_container
from bitstack.errors import UserError
from bitstack.metrics.density.capacity_density import Density, density
from bitstack.metrics.density.law import DensityLaw
from bitstack.original.hub_cache import Located, locate


class Sized(Protocol):
    """A model, as far as its density goes by its size."""

    @property
    def parameters(self) -> int:
        """Of the original model, tied ones once."""

    @property
    def resident_bytes(self) -> int:
        """Of the whole model in memory."""

    @property
    def budget_bytes(self) -> int | None:
        """None: no budget was given."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model that is not loaded; see `Sized`."""

    parameters: int
    resident_bytes: int
    budget_bytes: int | None = None


@dataclass(frozen=True)
class Scored:
    """A model and its density."""

    model: str  # folder or Hub name, as given
    budget_bytes: int | None  # None: no budget was given
    density: Density

    def to_json(self) -> dict[str, Any]:
        """Returns all fields in one object, those of `density` among them."""
        return {"model": self.model, "budget_bytes": self.budget_bytes} | asdict(self.density)


def check_one_measure(**given: Any) -> None:
    """Checks that density goes by one measure: `score`, `tasks`, `text` or `pairs`.

    Raises:
        UserError: Not exactly one of them is given.
    """
    if sum(one is not None for one in given.values()) != 1:
        raise UserError("give one of --score, --tasks, --text and --pairs: what density goes by")


def by_score(
    law: DensityLaw, score: float, error: float = 0.0, *, seed: int = 0
) -> Callable[[Sized], Density]:
    """Returns the measure of density from a score that is known, with its standard error."""
    return lambda model: density(
        law,
        score=score,
        score_error=error,
        parameters=model.parameters,
        stored_bytes=model.resident_bytes,
        seed=seed,
    )


def score_known(
    paths: Sequence[str], measure: Callable[[Sized], Density], budgets: Sequence[str] = ()
) -> list[Scored]:
    """Computes the density of every model of `paths`, a container at every budget.

    Args:
        measure: What `by_score` returned.

    Raises:
        UserError: A model cannot be opened, or there are budgets but no container.
    """
    places = [(path, locate(path)) for path in paths]
    any_container = any(is_container(place.folder) for _, place in places)
    return [
        Scored(path, sizes.budget_bytes, measure(sizes))
        for path, place in places
        for sizes in _sizes(path, place, budgets, any_container)
    ]


def _sizes(
    path: str, place: Located, budgets: Sequence[str], any_container: bool
) -> Iterator[Sizes]:
    """The sizes of a model: of a container at every budget, of an original one."""
    if place.gguf is None and is_container(place.folder):
        manifest = read_manifest(place.folder)
        wanted: list[str | None] = [*budgets] or [None]
        yield from (_at_budget(manifest, budget) for budget in wanted)
        return
    if budgets and not any_container:
        raise UserError(f"{path}: an original model takes no budget; name a container")
    # Imported for original models only: torch and the model's code take seconds.
    from bitstack.original.source import open_source

    source = open_source(place)
    yield Sizes(source.model.num_parameters(), source.bytes)


def _at_budget(manifest: Manifest, budget: str | None) -> Sizes:
    resident = manifest.budgets.resident_bytes(choose_levels(manifest, budget))
    size = None if budget is None else budget_bytes(manifest, budget)
    return Sizes(manifest.parameters, resident, size)
