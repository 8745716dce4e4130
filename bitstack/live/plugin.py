"""Makes `bitstack` known to transformers when both are imported, in whichever order.

Imports neither torch nor transformers: `import bitstack` stays quick, and so does the command
line. What is registered, and how a model is then loaded, is in `quantizer`.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

_REGISTRY = "transformers.quantizers.auto"  # every way to `from_pretrained` imports it
_QUANTIZER = "bitstack.live.quantizer"  # registers itself when it is imported


def register() -> None:
    """Register the quantizer now, or as soon as transformers has imported its registry."""
    if _REGISTRY in sys.modules:
        import_module(_QUANTIZER)
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


class _Watch(MetaPathFinder):
    """Finds nothing itself; sees the registry being looked for, and steps aside."""

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
    """The module's own loader, and the registration after it."""

    def __init__(self, own: Loader) -> None:
        self.own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.own  # as if nobody had watched
        self.own.exec_module(module)
        import_module(_QUANTIZER)
