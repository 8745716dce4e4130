"""Attaches a loaded model to its container, so that it can be resized, drafted and saved.

Both ways to a model end here: `live.loading` and transformers' `from_pretrained`
(`live.quantizer`). Does not read blocks; see `nn.assemble`.
"""

from typing import Any

from bitstack.container.manifest import Manifest
from bitstack.live.draft import add_drafts
from bitstack.live.guard import guard_forward
from bitstack.live.resident import Resident
from bitstack.live.save import add_save
from bitstack.original.hub_cache import Located


def attach(
    model: Any, place: Located, manifest: Manifest, levels: list[int], *, verify: bool = True
) -> Any:
    """Sets `model.bitstack` and wraps `forward`, `generate` and `save_pretrained`.

    Args:
        model: A transformers model whose blocks and dense tensors are all loaded.
        place: Where its container lies.
        manifest: Manifest of that container.
        levels: Level of every stack, in the manifest's order.
        verify: Whether later reads compare checksums.

    Returns:
        The same model.
    """
    model.bitstack = Resident(
        place.folder, manifest, model, levels, remote=place.remote, verify=verify
    )
    guard_forward(model, model.bitstack.guard)
    if model.can_generate():
        add_drafts(model)
    add_save(model)
    return model
