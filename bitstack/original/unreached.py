"""Names the parts of a model that a text does not reach, such as a vision tower.

They stay dense: no text tells what their weights are worth. Does not decide that; see
`original.matrices`.
"""

from torch import nn

from bitstack.machine.sizes import format_bytes
from bitstack.original.decoder_layers import find_layers, layer_of
from bitstack.original.dry_pass import DryPass


def unreached_line(model: nn.Module, seen: DryPass) -> str | None:
    """Returns the line that names the parts outside the decoder layers that `seen` did not reach.

    None where there are none, or where it is not known.
    """
    layers = find_layers(model)[0]
    missed = {
        name: parameter.numel() * parameter.dtype.itemsize
        for name, parameter in model.named_parameters()
        if layer_of(name, layers) is None and not seen.reached(name)
    }
    if not missed:
        return None
    parts = ", ".join(_whole_parts(model, set(missed)))
    return (
        f"not compressed, because text does not use it: {parts} "
        f"(takes {format_bytes(sum(missed.values()))} at every budget)"
    )


def _whole_parts(model: nn.Module, missed: set[str]) -> list[str]:
    """The outermost modules all of whose parameters are among `missed`, or single parameters."""
    parts = set()
    for name in missed:
        part, pieces = name, name.split(".")
        for depth in range(len(pieces) - 1, 0, -1):
            outer = ".".join(pieces[:depth])
            below = {f"{outer}.{n}" for n, _ in model.get_submodule(outer).named_parameters()}
            if not below <= missed:
                break
            part = outer
        parts.add(part)
    return sorted(parts)
