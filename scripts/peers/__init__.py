"""What the benchmarks compare: our recipes and other quantisers (the peers), one module each.

See `bench_quality.py` and `bench_frontier.py`. A module turns a model into dequantised weights and
the bytes stored for them. Does not compute a loss and does not count the rest of the model;
`peers.bench` does both, the same way for all.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

from peers.bench import Bench, Row


@dataclass(frozen=True)
class Method:
    """A family of rows, measured by a function (bench, done) of a module."""

    name: str  # first word of the field `method` of its rows
    module: str  # of this package
    needs: str | None = None  # import name of its library
    install: str = "pip install --no-build-isolation -c constraints.txt -e .[peers]"
    function: str = "rows"  # of the module

    def missing(self) -> str | None:
        """Returns the reason why it cannot run here, None if it can."""
        if self.needs is None or find_spec(self.needs) is not None:
            return None
        return f"{self.needs} is not installed: {self.install}"

    def rows(self, bench: Bench, done: Callable[[str, str], bool]) -> Iterable[Row]:
        """Measures every setting for which `done(method, setting)` is false, one at a time."""
        measure = getattr(import_module(f"peers.{self.module}"), self.function)
        return measure(bench, done)


_OWN = "see scripts/peers/requirements-gptqmodel.txt"
METHODS = {
    method.name: method
    for method in (
        Method("bitstack", "ours"),
        Method("paper", "published"),
        Method("rtn", "rtn"),
        Method("gptq", "gptq"),
        Method("matgptq", "matgptq"),
        Method("hqq", "hqq_peer", "hqq"),
        Method("quanto", "quanto_peer", "optimum.quanto"),
        Method("auto-round", "auto_round_peer", "auto_round"),
        Method("auto-round-light", "auto_round_peer", "auto_round", function="light_rows"),
        Method("llama.cpp", "llama_cpp_peer", "llama_cpp"),
        Method("llama.cpp-mix", "llama_cpp_mix", "llama_cpp"),
        Method("gptqmodel", "gptqmodel_peer", "gptqmodel", _OWN),
    )
}
# Measured by `bench_frontier.py`; `bench_quality.py` measures them only where it is told to.
FRONTIER_ONLY = ("matgptq", "auto-round-light", "llama.cpp-mix")


def family(method: str) -> str:
    """Returns the name in `METHODS` of a row's method: "gptq" of "gptq g64"."""
    return method.split()[0].rstrip(",")
