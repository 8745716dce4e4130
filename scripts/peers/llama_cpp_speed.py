"""Times a model that llama.cpp runs: a prompt, and tokens one after another.

The weights are those of a transformers model, quantised without an importance matrix: it changes
what they are worth, not how fast they are. Does not measure quality; see `peers.llama_cpp_peer`.
"""

import ctypes
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import llama_cpp
import torch

from peers.llama_cpp_peer import quantise, write

_CONTEXT = 4096  # tokens that the cache has room for


def quantised(source: Path, name: str) -> Path:
    """Returns the file of a GGUF `source` quantised to the type `name`, such as Q4_K_M."""
    target = source.with_name(f"{name}.gguf")
    quantise(source, target, name, {}, dense=False)
    return target


def dense_file(model: Any, folder: Path) -> Path:
    """Writes a Llama of transformers into `folder` as a GGUF in fp16; returns its file."""
    file = folder / "dense.gguf"
    write(model, file, torch.float16)
    return file


class LlamaCpp:
    """A GGUF that llama.cpp runs on as many threads as torch takes."""

    def __init__(self, file: Path) -> None:
        """Loads the file.

        Raises:
            RuntimeError: llama.cpp does not load it.
        """
        choices = llama_cpp.llama_model_default_params()
        # Built with AMX, the release 0.3.36 ends in a segmentation fault on Sapphire Rapids, unless
        # the weights are left in their usual layout. Build it without AMX to have the faster one.
        choices.use_extra_bufts = b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info()
        self._model = llama_cpp.llama_model_load_from_file(str(file).encode(), choices)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = _CONTEXT
        options.n_threads = options.n_threads_batch = torch.get_num_threads()
        self._context = self._model and llama_cpp.llama_init_from_model(self._model, options)
        if not self._context:
            raise RuntimeError(f"llama.cpp did not load {file.name}")

    def seconds_per_token(self, prompt: list[int], tokens: int) -> float:
        """Returns the median over `tokens` tokens that follow a prompt, one at a time."""
        self.prompt(prompt)
        times = [time.perf_counter()]
        for token in range(tokens):
            self._run([prompt[token % len(prompt)]])
            times.append(time.perf_counter())
        return statistics.median(b - a for a, b in pairwise(times))

    def prompt(self, ids: list[int]) -> None:
        """Reads a prompt from the beginning."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        self._run(ids)

    def close(self) -> None:
        """Frees the model."""
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)

    def _run(self, ids: list[int]) -> None:
        array = (ctypes.c_int32 * len(ids))(*ids)
        if llama_cpp.llama_decode(self._context, llama_cpp.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama.cpp did not run a batch")
        llama_cpp.llama_synchronize(self._context)
