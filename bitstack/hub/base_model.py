"""Says what a container's card tells of its base model: its name on the Hub, licence and language.

Does not write the card; see `hub.card`.
"""

import logging
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from bitstack.container.manifest import Manifest
from bitstack.errors import UserError
from bitstack.hub.measured import Text
from bitstack.original.hub_cache import hub_errors, is_name

_log = logging.getLogger(__name__)


def known_base(manifest: Manifest, text: Text | None) -> str | None:
    """Returns the original's name on the Hub, as it was measured or compressed under."""
    original = text.original if text else None
    names = [name for name in (original, manifest.base_model) if name and is_name(name)]
    return next((name for name in names if not Path(name).exists()), None)


def metadata_of(base_model: str | None) -> dict[str, Any]:
    """Returns the metadata of the base model's card. Warns where it has no license."""
    metadata: dict[str, Any] = {}
    if base_model is None:
        _log.warning(
            "warning: the base model is not known; name it with --base-model OWNER/NAME, or the "
            "card links to none"
        )
    else:
        try:
            with hub_errors(base_model):
                metadata = ModelCard.load(base_model, ignore_metadata_errors=True).data.to_dict()
        except UserError as error:
            _log.warning("warning: no model card of the base model: %s", error)
    if not metadata.get("license"):
        _log.warning("warning: the license of the base model is not known; name it with --license")
    return metadata
