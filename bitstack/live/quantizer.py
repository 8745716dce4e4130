"""Loads containers through `from_pretrained`: the quantizer and config that transformers looks up.

transformers makes the model, plans its devices and reads the dense tensors. Does not read blocks
itself; see `nn.assemble` and `live.attach`, which are imported only when a container is loaded.
"""

import copy
import re
from pathlib import Path
from typing import Any

from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from bitstack.errors import UserError
from bitstack.live.arguments import METHOD, check_device_map, check_variant


@register_quantization_config(METHOD)
class BitstackConfig(QuantizationConfigMixin):
    """The `quantization_config` of a container.

    Args:
        budget: How much is loaded, for example "800MB" or "50%"; None loads all blocks. It is set
            by `from_pretrained(..., bitstack_budget="50%")`, or as `config.bitstack_budget` before
            `from_pretrained(..., config=config)`. It is not saved.
        level: Level of every stack, instead of a budget.
        others: Fields of a newer bitstack.

    Raises:
        UserError: There are fields that this version does not know.
    """

    def __init__(
        self, budget: str | int | None = None, level: int | None = None, **others: Any
    ) -> None:
        others.pop("quant_method", None)
        if others:
            raise UserError(
                f"quantization_config: {', '.join(sorted(others))} not known; this bitstack reads "
                "budget and level: upgrade bitstack, or correct config.json"
            )
        self.quant_method: Any = METHOD
        self.budget, self.level = budget, level

    def to_dict(self) -> dict[str, Any]:
        return {key: copy.copy(value) for key, value in self.__dict__.items() if value is not None}


@register_quantizer(METHOD)
class BitstackQuantizer(HfQuantizer):
    """Packs the empty model, and fills it with blocks when transformers has read the rest."""

    requires_calibration = True
    quantization_config: BitstackConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Raises UserError without the variant, and for a device map that blocks cannot follow."""
        check_variant()
        check_device_map(kwargs.get("device_map"))

    def _process_model_before_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Packs the empty model and reserves places for its blocks.

        Raises UserError as `bitstack.load` does.
        """
        from bitstack.container.reading import open_container
        from bitstack.container.small_files import CONFIG, GENERATION, check_plain, check_sums
        from bitstack.nn.assemble import prepare

        files = kwargs.get("checkpoint_files")
        place = _place(model.config.name_or_path, files)
        config = self.quantization_config
        manifest, levels, reader = open_container(place, config.budget, config.level)
        prepare(place.folder, model, manifest, levels, model.config.dtype)
        check_plain(place.folder)
        check_sums(place.folder, manifest, [CONFIG, GENERATION])
        _check_dense(place.folder, manifest, reader, files)
        ignored = model._keys_to_ignore_on_load_unexpected or ()
        ignored = {*ignored, _names_of_blocks(manifest), f"^{re.escape(manifest.guard)}$"}
        model._keys_to_ignore_on_load_unexpected = ignored
        self._opened = place, manifest, levels, reader
        return model

    def _process_model_after_weight_loading(self, model: Any, **kwargs: Any) -> Any:
        """Reads the blocks into their places, and attaches the model to its container."""
        from bitstack.live.attach import attach
        from bitstack.machine.allocator import give_back
        from bitstack.nn.assemble import fill_stacks

        place, manifest, levels, reader = self.__dict__.pop("_opened")
        fill_stacks(model, manifest.stacks, levels, reader)
        reader.close()
        give_back()
        return mark(attach(model, place, manifest, levels))

    def is_serializable(self) -> bool:
        """Returns False: the model's own `save_pretrained` (`live.save`) does not ask."""
        return False

    @property
    def is_trainable(self) -> bool:
        """True for adapters; blocks stay as they are."""
        return True


def _names_of_blocks(manifest: Any) -> str:
    """A pattern of all names of a container's blocks, which transformers is not to read itself."""
    names = {re.escape(spec.name) for stack in manifest.specs.values() for spec in stack.all()}
    return rf"\.({'|'.join(sorted(names))})$"


def mark(model: Any) -> Any:
    """Marks a loaded model as quantised by bitstack, where transformers looks; returns it."""
    model.config.quantization_config = BitstackConfig()
    model.hf_quantizer = BitstackQuantizer(model.config.quantization_config)
    model.is_quantized, model.quantization_method = True, METHOD
    model.config._is_quantized = True
    model._weight_conversions = []  # a container uses the model's own names
    return model


def _place(name: str, files: list[str] | None) -> Any:
    """Returns the folder of the container; from the Hub its manifest is downloaded, too."""
    from bitstack.container.manifest import MANIFEST
    from bitstack.original.hub_cache import Located

    if not files:
        raise UserError(f"{name}: no weights of a container; give its folder or its Hub name")
    folder = Path(files[0]).parent
    if not (folder / MANIFEST).is_file() and "snapshots" in folder.parts:
        _fetch(name, folder, MANIFEST)
    return Located(folder)


def _check_dense(folder: Path, manifest: Any, reader: Any, files: list[str] | None) -> None:
    """Looks at what transformers is going to read itself: its files, and the dense tensors.

    Raises:
        UserError: The index names another file than the manifest, or a tensor is damaged.
    """
    import torch

    known = {shard.file for shard in manifest.shards}
    for file in files or ():
        if Path(file).parent != folder or Path(file).name not in known:
            raise UserError(
                f"{file}: is in the index, but not in the manifest; copy the container again"
            )
    with torch.device("cpu"):  # transformers makes the model within that of meta
        for entry in manifest.dense:
            if entry.persistent:
                reader.get(entry.name)


def _fetch(repo: str, folder: Path, file: str) -> None:
    """Downloads one more file of the snapshot that transformers downloaded.

    transformers does not pass the `token` of `from_pretrained` on to quantizers, so the token of
    `hf auth login` or HF_TOKEN is used.
    """
    from huggingface_hub import hf_hub_download

    from bitstack.original.hub_cache import hub_errors

    parts = folder.parts
    at = len(parts) - 1 - parts[::-1].index("snapshots")  # cache/models--x--y/snapshots/commit/…
    inner = "/".join((*parts[at + 2 :], file))
    with hub_errors(f"{repo}: the Hub did not give {file}"):
        hf_hub_download(repo, inner, revision=parts[at + 1], cache_dir=Path(*parts[: at - 1]))
