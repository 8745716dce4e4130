"""Finds the decoder layers of a model, its embedding and its LM head, by structure.

Does not find the weights in them; see `original.matrices`.
"""

import re
from typing import Any

from torch import nn

from bitstack.errors import UserError
from bitstack.original.dry_pass import DryPass, dry_pass


def find_layers(model: nn.Module, seen: DryPass | None = None) -> tuple[str, nn.ModuleList]:
    """Returns the name and the list of decoder layers.

    Of all lists of modules beside the input embedding that a text reaches, it is the one with the
    most parameters: a model that also reads images has another list of layers.

    Args:
        seen: A dry pass of `model`, if one was made already.

    Raises:
        UserError: The model has no torch.nn.ModuleList.
    """
    lists = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    home = _home(model)
    while home and not any(name.startswith(f"{home}.") for name, _ in lists):
        home = home.rpartition(".")[0]
    lists = [pair for pair in lists if not home or pair[0].startswith(f"{home}.")]
    if not lists:
        raise UserError(
            f"model {type(model).__name__} has no list of decoder layers: only models whose layers "
            "stand in a torch.nn.ModuleList can be compressed"
        )
    lists.sort(key=lambda pair: -sum(p.numel() for p in pair[1].parameters()))
    beside = [pair for pair in lists[1:] if not pair[0].startswith(f"{lists[0][0]}.")]
    if not beside:
        return lists[0]  # the others are parts of its layers
    seen = seen or dry_pass(model)
    return next((pair for pair in lists if _reached(seen, *pair)), lists[0])


def _reached(seen: DryPass, name: str, part: nn.Module) -> bool:
    return any(seen.reached(f"{name}.{inner}") for inner, _ in part.named_parameters())


def _home(model: Any) -> str:
    """Name of the module that holds the input embedding; "" for the model itself."""
    embedding = embedding_and_head(model)[0] if hasattr(model, "config") else None
    names = (name for name, module in model.named_modules() if module is embedding)
    return next(names, "").rpartition(".")[0]


def layer_of(name: str, layers: str) -> int | None:
    """Returns the index of the decoder layer that `name` lies in; None outside of all layers.

    Args:
        layers: Name of the list of layers, as `find_layers` returns it.
    """
    match = re.match(re.escape(layers) + r"\.(\d+)\.", name)
    return int(match.group(1)) if match else None


def embedding_and_head(model: Any) -> tuple[Any, Any]:
    """Input embedding and LM head, None for a head that a model lacks."""
    return model.get_input_embeddings(), model.get_output_embeddings()
