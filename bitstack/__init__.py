"""bitstack: compress a causal language model once, load it into any memory budget.

The public API and nothing else. Names are imported when first used, so that the command line
answers at once.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bitstack.integrations.plugin import register

if TYPE_CHECKING:
    from bitstack.compress import compress
    from bitstack.errors import UserError
    from bitstack.export import export
    from bitstack.load import load
    from bitstack.memory import follow_memory
    from bitstack.plan import plan
    from bitstack.resize import resize

__all__ = ["UserError", "compress", "export", "follow_memory", "load", "plan", "resize"]

_HOMES = {
    "compress": "compress",
    "export": "export",
    "follow_memory": "memory",
    "load": "load",
    "plan": "plan",
    "resize": "resize",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"bitstack.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'bitstack' has no attribute {name!r}")


class _Api(ModuleType):
    """Keeps `bitstack.load` the function when the module of that name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Api
register()
