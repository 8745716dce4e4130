"""What is shipped beside the code: recipes, a demo model, and texts for it.

Gives out paths only. Does not read a recipe; see `bitstack.recipe`. Does not load a model; see
`bitstack.live`.
"""

from pathlib import Path

from bitstack.errors import UserError

_HERE = Path(__file__).parent


def demo_model() -> Path:
    """Returns the folder of a Llama of 5.5 million parameters, trained on public-domain books."""
    return _HERE / "demo-model"


def calibration_text() -> Path:
    """Returns the file with about 250 KB of the books that the demo model was trained on."""
    return _HERE / "text" / "calibration.txt"


def general_text() -> Path:
    """Returns the file, packed by gzip, that a run calibrates with where no text is named.

    About 1 MB of prose, code, documents, data, dialogue and other languages.
    """
    return _HERE / "text" / "general.txt.gz"


def held_out_text() -> Path:
    """Returns the file with about 250 KB of books that the demo model was not trained on."""
    return _HERE / "text" / "held-out.txt"


def tasks() -> Path:
    """Returns the folder of the lm-eval task files of benchmarks; their data is not shipped."""
    return _HERE / "tasks"


def names() -> list[str]:
    """Returns the names of the shipped recipes."""
    return sorted(path.stem for path in _HERE.glob("*.yaml"))


def named(name: str) -> Path:
    """Returns the file of the shipped recipe `name`.

    Raises:
        UserError: no recipe of this name is shipped.
    """
    if name not in names():
        raise UserError(
            f"recipe {name!r} is unknown; shipped are {', '.join(names())}; "
            "give one of these or the path of a YAML file"
        )
    return _HERE / f"{name}.yaml"
