"""A filled model made a live one: it knows its container, and can be resized, drafted and saved.

Called by both ways to a model, `load` and transformers' `from_pretrained`.
"""

from typing import Any

from bitstack.container.manifest import Manifest
from bitstack.live.draft import add_drafts
from bitstack.live.guard import guard_forward
from bitstack.live.resident import Resident
from bitstack.live.save import add_save
from bitstack.original.hub_cache import Located


def attach(model: Any, place: Located, manifest: Manifest, levels: list[int]) -> Any:
    """Give a filled `model` its `bitstack`, and make it safe to resize and to save; returns it."""
    model.bitstack = Resident(place.folder, manifest, model, levels, remote=place.remote)
    guard_forward(model, model.bitstack.guard)
    if model.can_generate():
        add_drafts(model)
    add_save(model)
    return model
