"""GPTQModel: GPTQ with its clipping search (`mse`) and activation-aware, asymmetric groups.

It needs an older numpy than this project pins, so it runs in an environment of its own (see
requirements-gptqmodel.txt) and adds to the same file of rows. Bytes are those of the tensors it
saves, with the order of its inputs (`g_idx`).
"""

import logging
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from peers import embedding
from peers.bench import Bench, Clock, Row
from peers.loops import Done, unmeasured

BITS, GROUPS = (2, 3, 4, 8), (64, 128)
BATCH = 8  # windows of a forward pass
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    for method, setting, bits, group in unmeasured(bench, "gptqmodel g{}", BITS, GROUPS, done):
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            quantise(bench, Path(folder), bits, group)
            seconds = clock.seconds
            weights, size = read(Path(folder), bench)
        linear = embedding.Quantised(method, setting, bits, weights, size, seconds)
        yield from embedding.rows(bench, done, linear)


def quantise(bench: Bench, folder: Path, bits: int, group: int) -> None:
    """Quantises the model with its own pipeline and saves it to `folder`."""
    library = _library()
    config = library.QuantizeConfig(
        bits=bits, group_size=group, sym=False, mse=2.0, offload_to_disk=False
    )
    examples = [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids)} for ids in bench.windows
    ]
    model = library.GPTQModel.load(str(bench.folder), config, dtype=torch.float32)
    model.quantize(examples, batch_size=BATCH)
    model.save(str(folder))


def read(folder: Path, bench: Bench) -> tuple[dict[str, Tensor], int]:
    """Returns the dequantised weights by parameter, and the bytes stored for them."""
    library = _library()
    loaded = library.GPTQModel.load(str(folder), backend=library.BACKEND.TORCH, device="cpu")
    modules, weights = dict(loaded.model.named_modules()), {}
    for matrix in bench.linear:
        value = modules[matrix.module].dequantize_weight()  # [inputs, outputs]
        weights[matrix.parameter] = value.T.float().contiguous()
    return weights, stored_bytes(folder, [m.module for m in bench.linear])


def stored_bytes(folder: Path, modules: list[str]) -> int:
    """Returns the bytes of the quantised tensors of `modules` in the files of `folder`."""
    wanted, total = {f"{m}.{part}" for m in modules for part in _PARTS}, 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            total += sum(tensors.get_tensor(n).nbytes for n in wanted & set(tensors.keys()))
    return total


def _library() -> Any:
    """Imports gptqmodel; without torchvision, a stand-in replaces the one model that needs it."""
    name = "gptqmodel.models.definitions.internvl_chat"
    if find_spec("torchvision") is None and name not in sys.modules:
        stand_in: Any = ModuleType(name)
        stand_in.InternVLChatQModel = type("InternVLChatQModel", (), {})
        sys.modules[name] = stand_in
    import gptqmodel

    logging.getLogger("gptqmodel").setLevel(logging.ERROR)
    return gptqmodel
