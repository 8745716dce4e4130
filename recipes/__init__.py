"""What is shipped beside the code: recipes, a demo model, and texts for it.

Only paths are given out; reading a recipe is left to `bitstack.recipe`, loading to `bitstack.load`.
"""

from pathlib import Path

from bitstack.errors import UserError

_HERE = Path(__file__).parent


def demo_model() -> Path:
    """Folder of a Llama of 5.5 million parameters, trained on public-domain books."""
    return _HERE / "demo-model"


def calibration_text() -> Path:
    """About 250 KB of the books the demo model was trained on."""
    return _HERE / "text" / "calibration.txt"


def held_out_text() -> Path:
    """About 250 KB of books the demo model has never seen."""
    return _HERE / "text" / "held-out.txt"


def tasks() -> Path:
    """Folder of the benchmarks' task files for lm-eval; their data is not shipped."""
    return _HERE / "tasks"


def names() -> list[str]:
    """The recipes that can be asked for by name."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def named(name: str) -> Path:
    """The file of recipe `name`. Raises UserError, with the names there are, for another."""
    if name not in names():
        raise UserError(
            f"recipe {name!r} is unknown; shipped are {', '.join(names())}; "
            "give one of these or the path of a YAML file"
        )
    return _HERE / f"{name}.yaml"
