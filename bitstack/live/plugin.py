"""Registers bitstack with transformers: in every process that imports torch, or bitstack itself.

transformers looks for no plug-ins, but torch does: it calls what installed packages name in their
entry points `torch.backends`. So `register` runs while torch is imported, before transformers can
load a model. Imports neither torch nor transformers, so that `import bitstack`, `import torch` and
the command line stay quick. Does not define what is registered; see `live.quantizer`.
"""

import logging
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
    """Registers the quantizer now, or as soon as transformers has imported its registry.

    A failure is a warning: it must not keep torch from being imported, which calls this, too,
    unless the environment has TORCH_DEVICE_BACKEND_AUTOLOAD=0.
    """
    if _is_imported():
        _register()
    elif not any(isinstance(finder, _Watch) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watch())


def _register() -> None:
    try:
        import_module(_QUANTIZER)
    except Exception as error:
        logging.getLogger(__name__).warning("bitstack: not known to transformers (%r)", error)


def _is_imported() -> bool:
    """Whether the registry can be used: torch may be imported in the midst of its own import."""
    return hasattr(sys.modules.get(_REGISTRY), "register_quantizer")


class _Watch(MetaPathFinder):
    """Waits for the import of the registry, adds the registration to it, and removes itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _REGISTRY and not _is_imported():
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        if name != _REGISTRY:  # its import had begun before this one watched
            _register()
            return None
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
        _register()
