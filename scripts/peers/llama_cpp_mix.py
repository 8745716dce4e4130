"""llama.cpp with a type for each tensor, chosen so that the whole model takes a given size.

What users of llama.cpp ask for in its pull request 15550. The error of a type on a tensor is the
squared error weighted by the importance matrix, on a sample of rows; from the smallest types on,
the step that saves the most error per byte is taken until the size is reached. Errors are relative
to the tensor's own weighted square, without which a few tensors with large inputs would take all
bytes; that of the head counts once for each matrix before it, whose errors add up. Types with a
minimum in blocks of 32 (Q4_1, Q5_1) are left out: SmolLM2's weights lie on that grid. Single types
are in `peers.llama_cpp_peer`.
"""

import ctypes
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import llama_cpp
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from llama_cpp._ctypes_extensions import load_shared_library
from tqdm import tqdm

from peers.bench import Arrays, Bench, Clock, Row
from peers.containers import in_bytes
from peers.llama_cpp_peer import head_name, importance_matrix, stored_names
from peers.loops import Done
from peers.mixing import Choice, chosen

METHOD = "llama.cpp-mix"
TYPES = (
    Type.IQ2_XXS, Type.IQ2_XS, Type.IQ2_S, Type.Q2_K, Type.IQ3_XXS, Type.IQ3_S, Type.Q3_K,
    Type.IQ4_XS, Type.IQ4_NL, Type.Q4_0, Type.Q4_K, Type.Q5_0, Type.Q5_K, Type.Q6_K, Type.Q8_0,
)  # fmt: skip
SAMPLED = 256  # rows of a tensor on which the types are compared
_ggml = load_shared_library("ggml-base", Path(llama_cpp.__file__).parent / "lib")
_ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
_ggml.ggml_quantize_chunk.argtypes = [
    ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
    ctypes.c_void_p,
]  # fmt: skip


def rows(bench: Bench, done: Done) -> Iterator[Row]:
    """Measures every size of `bench.sizes` without a row; smaller than all types: none."""
    wanted = [size for size in bench.sizes(METHOD) if not done(METHOD, in_bytes(size))]
    if not wanted:
        return
    clock = Clock()
    found, earlier = importance_matrix(bench)
    weights, importance, counts = _tensors(bench), _importance(bench, found), _counts(bench)
    choices = _each(
        weights,
        lambda n: compared(weights[n], importance[n], counts.get(n, 1)),
        f"{METHOD}, errors",
    )
    fixed = sum(4 * p.numel() for n, p in bench.model.named_parameters() if n not in weights)
    before = clock.seconds + earlier
    for size in wanted:
        clock, types = Clock(), chosen(choices, size - fixed)
        if types is None:
            continue
        values = _each(
            weights,
            lambda n, t=types: quantised(weights[n], t[n].kind, importance[n])[0],
            f"{METHOD} {in_bytes(size)}",
        )
        seconds, stored = before + clock.seconds, sum(c.size for c in types.values())
        bits = 8 * stored / sum(w.size for w in weights.values())
        with bench.replaced({n: torch.tensor(v) for n, v in values.items()}) as model:
            yield bench.scored(
                METHOD, in_bytes(size), "whole", bits, fixed + stored, model, seconds
            )


def compared(weight: np.ndarray, importance: np.ndarray, times: int = 1) -> list[Choice]:
    """Returns what each type that divides `weight` [rows, n] takes and loses, `times` over."""
    count, width = weight.shape
    some = weight[np.unique(np.linspace(0, count - 1, SAMPLED).round().astype(int))]
    whole = float((some**2 * importance).sum()) or 1.0
    found = []
    for kind in TYPES:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if width % block == 0:
            value, _ = quantised(some, kind, importance)
            error = float(((value - some) ** 2 * importance).sum()) / whole * times
            found.append(Choice(kind, count * width // block * size, error))
    return found


def quantised(weight: np.ndarray, kind: Type, importance: np.ndarray) -> tuple[np.ndarray, int]:
    """Returns the dequantised `weight` [rows, n], fp32, and the bytes of a type."""
    source = np.ascontiguousarray(weight, dtype=np.float32)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    target = np.empty((len(source), source.shape[1] // block * size), dtype=np.uint8)
    written = _ggml.ggml_quantize_chunk(
        int(kind), source.ctypes.data, target.ctypes.data, 0, *source.shape, importance.ctypes.data
    )
    assert written == target.nbytes
    return gguf.dequantize(target, kind), written


def _counts(bench: Bench) -> dict[str, int]:
    """Returns how often the error of the head counts, by its parameter."""
    return {head_name(bench.model): len(bench.linear)}


def _tensors(bench: Bench) -> dict[str, np.ndarray]:
    """Returns every matrix that llama.cpp quantises, fp32, by parameter."""
    parameters = dict(bench.model.named_parameters())
    return {n: parameters[n].detach().numpy() for n in stored_names(bench.model)
            if parameters[n].ndim == 2}  # fmt: skip


def _importance(bench: Bench, found: Arrays) -> Arrays:
    """Returns the mean squares of inputs, fp32 [n], by parameter; ones where there are none."""
    names = stored_names(bench.model)
    return {n: found.get(names[n], np.ones(w.shape[1], np.float32))
            for n, w in _tensors(bench).items()}  # fmt: skip


def _each(weights: Mapping[str, Any], one: Callable[[str], Any], label: str) -> dict[str, Any]:
    """Returns `one(name)` for every tensor, in as many threads as torch has."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        results = tqdm(pool.map(one, weights), desc=label, total=len(weights), disable=None)
        return dict(zip(weights, results, strict=True))
