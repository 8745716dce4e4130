"""Which of their settings the methods of `bench_quality.py` measure.

Every peer has settings of its own, which is a run of days on a real model. Does not measure; see
`peers.loops`, `peers.embedding` and `peers.ours`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

EIGHT, SAME = ", embedding 8 bits", ", embedding too"  # added to the name of a method


@dataclass(frozen=True)
class Limits:
    """The settings that are measured, of those that a method has; None and no entry: all."""

    groups: tuple[int, ...] | None = None
    bits: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by name of the method
    types: tuple[str, ...] | None = None  # of llama.cpp
    recipes: tuple[str, ...] = ("default", "fast", "best")  # keys of `peers.ours.VARIANTS`
    embeddings: bool = False  # whether peers have rows with a rounded embedding as well

    def groups_of(self, own: Sequence[int]) -> list[int]:
        """Returns those of the group sizes `own` that are measured."""
        return [group for group in own if self.groups is None or group in self.groups]

    def bits_of(self, name: str, own: Sequence[int]) -> list[int]:
        """Returns those of the bits `own` that are measured of the method `name`."""
        return [bits for bits in own if bits in self.bits.get(name, own)]

    def endings(self, bits: int, *, same: bool) -> list[str]:
        """Returns what the names of the rows of one quantised model end with.

        Args:
            bits: Of its linear matrices.
            same: Whether its method quantises the embedding too; at 8 bits that is no other row.
        """
        if not self.embeddings:
            return [""]
        return ["", EIGHT, *([SAME] if same and bits < 8 else [])]
