"""The stages in which the planes of all stacks are made, and how the journal tells them apart.

Without tuning there is one. What is done in a stage is the business of `stacker` and `tuning`.
"""

from dataclasses import dataclass

from bitstack.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """Which planes of every stack are made: all at once, or those below and above the tuning.

    `prefix` stands before the journal's names of what is made here, `below` before those of the
    planes it is built on; `lower`: only the planes that are chosen together.
    """

    prefix: str = ""
    below: str = ""
    lower: bool = False
    says: str = "decompose"  # what the progress bar is called

    def recipe(self, recipe: Recipe, name: str) -> Recipe:
        """The recipe of the matrix `name` in this stage."""
        own = recipe.of(name)
        return own.lower() if self.lower else own


WHOLE = Stage()
LOWER = Stage(prefix="~lower.", lower=True)
TUNED = "~tuned."
UPPER = Stage(below=TUNED, says="planes above")
