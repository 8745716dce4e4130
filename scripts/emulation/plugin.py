"""Makes pytest test an emulated library: `pytest -p emulation.plugin`, with scripts/ on the path.

The command that runs it is that of BITSTACK_EMULATED, a JSON list. See `library`.
"""

import json
import os
from functools import wraps

from bitstack.kernels import library, selection

from .library import EmulatedLibrary

_emulated = EmulatedLibrary(json.loads(os.environ["BITSTACK_EMULATED"]))


@wraps(library.load)
def _load() -> EmulatedLibrary:
    return _emulated


library.load = _load  # type: ignore[assignment]
selection.variants.cache_clear()
