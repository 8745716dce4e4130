"""Old names of recipe fields: version 0.1 files, calls and containers are still understood.

Does not check values; see `recipe.schema`.
"""

import logging
from functools import cache
from typing import Any

RENAMED = {
    "samples": "num_samples", "length": "seq_len", "together": "joint_planes",
    "sweeps": "search_sweeps", "passes": "joint_passes", "preference": "level_weights",
    "rounds": "refit_rounds", "scaling": "column_scaling", "tune_rate": "scale_lr",
    "tune_codes": "code_lr", "targets": "target_bits",
}  # fmt: skip
"""The present name of each field that was called otherwise in version 0.1."""
OLD_NAMES = {new: old for old, new in RENAMED.items()}

_log = logging.getLogger(__name__)


def current_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a recipe, and those in its `overrides`, under their present names.

    Logs one line for each old name, once in a process.

    Raises:
        ValueError: a field is given under both names.
    """
    renamed = {}
    for name, value in fields.items():
        new = RENAMED.get(name, name)
        if new in renamed or (new != name and new in fields):
            raise ValueError(f"{new}: also given as {OLD_NAMES[new]}, its old name; give one")
        if new != name:
            _warn_of_old_name(name)
        if name == "overrides" and isinstance(value, dict):
            value = {k: current_names(v) if isinstance(v, dict) else v for k, v in value.items()}
        renamed[new] = value
    return renamed


def with_old_names(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns the fields of a recipe under both names, for programs that read the old ones."""
    return fields | {old: fields[new] for old, new in RENAMED.items() if new in fields}


@cache
def _warn_of_old_name(old: str) -> None:
    _log.warning("warning: recipe field %s is now called %s; both are read", old, RENAMED[old])
