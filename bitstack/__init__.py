"""Compress a causal language model once, load it into any memory budget.

Holds the public API and no code of its own. Each name is imported when it is first used, because
torch and transformers take seconds to import. Type checkers read the imports below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bitstack.live.plugin import register

if TYPE_CHECKING:
    # In a checkout this package lies elsewhere, where mypy does not look for it.
    import bitstack.recipes as recipes  # noqa: F401
    from bitstack.compression.pipeline import compress
    from bitstack.container.planning import plan
    from bitstack.container.verification import verify
    from bitstack.errors import UserError
    from bitstack.hub.upload import push
    from bitstack.kernels.dispatch import set_accuracy
    from bitstack.live.dense_export import export
    from bitstack.live.loading import load
    from bitstack.live.memory_follower import follow_memory
    from bitstack.live.resident import resize
    from bitstack.metrics.loss.evaluation import evaluate
    from bitstack.recipe import Recipe, load_recipe

__version__ = "0.1.0"

__all__ = [
    "Recipe",
    "UserError",
    "__version__",
    "compress",
    "evaluate",
    "export",
    "follow_memory",
    "load",
    "load_recipe",
    "plan",
    "push",
    "resize",
    "set_accuracy",
    "verify",
]

_MODULES = {
    "Recipe": "recipe",
    "UserError": "errors",
    "compress": "compression.pipeline",
    "evaluate": "metrics.loss.evaluation",
    "export": "live.dense_export",
    "follow_memory": "live.memory_follower",
    "load": "live.loading",
    "load_recipe": "recipe",
    "plan": "container.planning",
    "push": "hub.upload",
    "resize": "live.resident",
    "set_accuracy": "kernels.dispatch",
    "verify": "container.verification",
}


if not TYPE_CHECKING:  # a type checker would take every misspelt name for one of these

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"bitstack.{_MODULES[name]}"), name)
        raise AttributeError(f"module 'bitstack' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


register()
