"""Other quantisers, each in a module of its own: a model in, dequantised weights and bytes out.

`METHODS` is what `bench_quality.py` knows. A peer never computes a loss and never counts the rest
of the model: `bench` does both, the same for all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from peers.bench import Bench, Row


@dataclass(frozen=True)
class Method:
    """A family of rows: `module`.rows(bench, skip) measures those not in `skip`."""

    name: str  # the first word of its rows' methods
    module: str  # in this package
    needs: str | None = None  # import name of the library
    install: str = "pip install --no-build-isolation -c constraints.txt -e .[peers]"

    def missing(self) -> str | None:
        """Why it cannot run here, None if it can."""
        if self.needs is None or find_spec(self.needs) is not None:
            return None
        return f"{self.needs} is not installed: {self.install}"

    def rows(self, bench: Bench, done: Callable[[str, str], bool]) -> Iterable[Row]:
        """Measure every setting for which `done(method, setting)` is false, one at a time."""
        return import_module(f"peers.{self.module}").rows(bench, done)


_OWN = "see scripts/peers/requirements-gptqmodel.txt"
METHODS = {
    method.name: method
    for method in (
        Method("bitstack", "ours"),
        Method("paper", "published"),
        Method("rtn", "rtn"),
        Method("gptq", "gptq"),
        Method("hqq", "hqq_peer", "hqq"),
        Method("quanto", "quanto_peer", "optimum.quanto"),
        Method("auto-round", "auto_round_peer", "auto_round"),
        Method("llama.cpp", "llama_cpp_peer", "llama_cpp"),
        Method("gptqmodel", "gptqmodel_peer", "gptqmodel", _OWN),
    )
}


def family(method: str) -> str:
    """The name in `METHODS` of a row's method, which its settings follow after a blank or comma."""
    return method.split()[0].rstrip(",")
