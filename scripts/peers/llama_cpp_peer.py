"""llama.cpp through llama-cpp-python: a GGUF file made with `gguf`, quantised by llama.cpp.

Uses an importance matrix (mean square of every input) from the calibration text. Where the blocks
of 256 weights of a type do not divide a matrix, llama.cpp takes a type with blocks of 32; types
that then come out alike are measured once. `gguf` dequantises the weights. Every type is measured
twice: with a 16-bit embedding, and with the embedding quantised as llama.cpp stores it.
"""

import ctypes
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from peers.bench import Arrays, Bench, Clock, Row
from peers.limits import SAME
from peers.loops import Done

TYPES = (
    "IQ2_XXS", "IQ2_XS", "IQ2_S", "Q2_K_S", "Q2_K", "IQ3_XXS", "IQ3_S", "Q3_K_S", "Q3_K_M",
    "Q3_K_L", "IQ4_XS", "IQ4_NL", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S",
    "Q5_K_M", "Q6_K", "Q8_0",
)  # fmt: skip
_BATCH = 8  # windows of a forward pass


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every setting without a row."""
    if bench.model.config.model_type != "llama":
        raise ValueError(f"{bench.model.config.model_type} models are not converted here")
    types, seen = bench.limits.types or TYPES, set()
    endings = ("", SAME)
    if all(done(f"llama.cpp{ending}", name) for name in types for ending in endings):
        return
    with tempfile.TemporaryDirectory() as folder:
        clock, source = Clock(), Path(folder) / "source.gguf"
        write(bench.model, source)
        importance, earlier = importance_matrix(bench)
        importance.pop(stored_names(bench.model)[head_name(bench.model)])  # as llama.cpp's own tool
        before = clock.seconds + earlier
        for name in tqdm(types, desc="llama.cpp", disable=None):
            for ending in endings:
                method, dense = f"llama.cpp{ending}", not ending
                if len(types) == 1 and done(method, name):
                    continue  # no other type could come out like it
                clock, file = Clock(), Path(folder) / f"{name}.gguf"
                quantise(source, file, name, importance, dense)
                seconds, tensors = before + clock.seconds, gguf.GGUFReader(file).tensors
                kinds = (dense, *(t.tensor_type for t in tensors))
                if kinds not in seen and not done(method, name):
                    yield _row(bench, method, name, tensors, dense, seconds)
                seen.add(kinds)


def _row(bench: Bench, method: str, name: str, tensors: Any, dense: bool, seconds: float) -> Row:
    names = {there: here for here, there in stored_names(bench.model).items()}
    values = {names[t.name]: t for t in tensors if t.name in names and len(t.shape) == 2}
    weights = {n: torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for n, t in values.items()}
    linear = {m.parameter for m in bench.linear}
    size = sum(int(t.n_bytes) for n, t in values.items() if n in linear)
    if dense:
        return bench.row(method, name, {n: weights[n] for n in linear}, size, seconds)
    stored = sum(int(t.n_bytes) for t in values.values())
    bits = 8 * stored / sum(w.numel() for w in weights.values())
    total = sum(int(t.n_bytes) for t in tensors)  # llama.cpp stores norms in fp32
    with bench.replaced(weights) as model:
        return bench.scored(method, name, "whole", bits, total, model, seconds)


def stored_names(model: Any) -> dict[str, str]:
    """Returns the name in a GGUF of every parameter, by parameter (tied ones once)."""
    layers = model.config.num_hidden_layers
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, layers)
    names = {n: known.get_name(n, try_suffixes=(".weight",)) for n, _ in model.named_parameters()}
    return {name: there for name, there in names.items() if there is not None}


def head_name(model: Any) -> str:
    """Returns the parameter of the head, which is the embedding's where they are tied."""
    weight = model.get_output_embeddings().weight
    return next(name for name, parameter in model.named_parameters() if parameter is weight)


def write(model: Any, file: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes the model as a GGUF, its matrices in `dtype`, with as much as quantising needs.

    Rows of q and k stay in the order of transformers: a block never spans rows, so their order
    changes nothing. There is no tokenizer.
    """
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    for name, there in stored_names(model).items():
        tensor = model.get_parameter(name).detach()
        writer.add_tensor(there, tensor.to(dtype if tensor.ndim > 1 else torch.float32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(
    source: Path, target: Path, name: str, importance: dict[str, np.ndarray], dense: bool
) -> None:
    """Runs llama.cpp's quantisation.

    Raises:
        RuntimeError: It refuses.
    """
    entry = llama_cpp.llama_model_imatrix_data
    entries = [
        entry(there.encode(), values.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), values.size)
        for there, values in importance.items()
    ]
    array = (entry * (len(entries) + 1))(*entries, entry(None, None, 0))
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{name}")
    options.nthread = torch.get_num_threads()
    options.imatrix = ctypes.cast(array, type(options.imatrix))
    if dense:
        options.token_embedding_type = options.output_tensor_type = int(
            gguf.GGMLQuantizationType.F16
        )
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(options)
    )
    if failed:
        raise RuntimeError(f"llama.cpp did not quantise to {name}")


def importance_matrix(bench: Bench) -> tuple[Arrays, float]:
    """Returns `mean_squares`, and the seconds it took if it was made earlier."""
    return bench.shared("importance", lambda: mean_squares(bench))


@torch.no_grad()
def mean_squares(bench: Bench) -> Arrays:
    """Returns the mean squares of the inputs of linear matrices, fp32 [columns], by GGUF name.

    Those of the head come under the name of the embedding where it is tied to it.
    """
    names, sums = stored_names(bench.model), dict[str, Tensor]()

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any) -> None:
            flat = args[0].reshape(-1, args[0].shape[-1])
            sums[name] = sums.get(name, torch.zeros(flat.shape[1])) + flat.square().sum(0)

        return hook

    model = bench.model
    modules = {names[m.parameter]: model.get_submodule(m.module) for m in bench.linear}
    modules[names[head_name(model)]] = model.get_output_embeddings()
    handles = [module.register_forward_pre_hook(note(n)) for n, module in modules.items()]
    for ids in bench.windows.split(_BATCH):
        bench.model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    tokens = bench.windows.numel()
    return {name: (total / tokens).numpy().astype(np.float32) for name, total in sums.items()}


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, data: Any) -> None:
    """Drops the log, which has a line for every tensor."""


llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
