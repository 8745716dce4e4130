"""The stages in which the planes of all stacks are made, and how the journal tells them apart.

Without tuning there is one. What is done in a stage is the business of `stacker` and `tuning`.
"""

from dataclasses import dataclass

from bitstack.matrices import Matrix
from bitstack.recipe import Recipe


@dataclass(frozen=True)
class Stage:
    """Which planes of every stack are made: all at once, or those below and above the tuning.

    `prefix` stands before the journal's names of what is made here, `below` before those of the
    planes it is built on; `lower`: only the planes that are chosen together, but all of what stands
    outside the layers: embedding and head soon lie higher than the rest, and layers tuned beside
    worse ones would learn to make up for what is not there.
    """

    prefix: str = ""
    below: str = ""
    lower: bool = False
    says: str = "decompose"  # what the progress bar is called

    def recipe(self, recipe: Recipe, matrix: Matrix) -> Recipe:
        """The recipe of a matrix in this stage."""
        own = recipe.of(matrix.name)
        return own.lower() if self.lower and matrix.layer is not None else own


WHOLE = Stage()
LOWER = Stage(prefix="~lower.", lower=True)
TUNED = "~tuned."
UPPER = Stage(below=TUNED, says="planes above")
