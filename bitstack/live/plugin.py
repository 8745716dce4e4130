"""Registers bitstack with transformers when both are imported, in either order.

Imports neither torch nor transformers, so that `import bitstack` and the command line stay quick.
Does not define what is registered; see `live.quantizer`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_REGISTRY = "transformers.quantizers.auto"  # `from_pretrained` needs it, so it is always imported
_QUANTIZER = "bitstack.live.quantizer"  # registers itself when it is imported


def register() -> None:
    """Registers the quantizer now, or as soon as transformers has imported its registry."""
    if _REGISTRY in sys.modules:
        import_module(_QUANTIZER)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Waits for the import of the registry, adds the registration to it, and removes itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _REGISTRY:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    """Runs the module's own loader, then registers the quantizer."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.own  # leave no trace in the module
        self.own.exec_module(module)
        import_module(_QUANTIZER)
