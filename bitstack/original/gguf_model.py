"""Opens a GGUF as a plain model folder: read and dequantised by transformers, in 16 or 32 bits.

The folder is made once in a process, in the system's folder for temporary files, and is gone with
the process. What transformers cannot read of a GGUF is refused, never filled with random weights.
Does not open the folder; see `original.source`.
"""

import re
import shutil
import tempfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from bitstack.errors import UserError, one_line
from bitstack.machine.extras import require
from bitstack.machine.free_memory import memory_room
from bitstack.machine.sizes import format_bytes
from bitstack.original.file_names import LEGAL, files_beside
from bitstack.original.hub_cache import GGUF, Located

LOSSLESS_BITS = 8  # a GGUF of fewer bits per weight has a loss of its own that can be told
_SHOWN = 6  # files named in an error
_ROPE_FACTORS = "rope_freqs.weight"
_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_OTHER_DISK = "free some, or name a folder on another disk in the variable TMPDIR"
_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True)
class Contents:
    """What the tensors of a GGUF say of it."""

    weights: int
    bits_per_weight: float  # of the matrices
    dtype: torch.dtype  # that holds all values
    names: frozenset[str]

    @property
    def remarks(self) -> list[str]:
        """What a user should know of it."""
        lines = []
        if self.bits_per_weight < LOSSLESS_BITS:
            lines.append(
                f"a GGUF of {self.bits_per_weight:.1f} bits per weight: the loss of its own "
                "quantisation stays; the model it was made from gives a better container"
            )
        if _ROPE_FACTORS in self.names:
            lines.append(f"transformers does not read {_ROPE_FACTORS}: long texts may go wrong")
        return lines


def find_gguf(place: Located) -> Path | None:
    """Returns the GGUF that a place names, downloaded if it is on the Hub; None for a plain folder.

    Raises:
        UserError: It is not there, or there are only GGUFs and none is named.
    """
    plain = (place.folder / "config.json").is_file()
    if place.gguf is None and plain:
        return None
    if place.gguf and place.remote:
        place.remote.fetch([place.gguf])
    if place.gguf and (place.folder / place.gguf).is_file():
        return place.folder / place.gguf
    there = _names(place)
    if place.gguf is None and not there:
        return None
    where = place.remote.name if place.remote else place.folder
    if place.gguf is None:
        raise UserError(f"{where}: holds no config.json, but GGUFs; {_name_one(there)}")
    raise UserError(f"{where}: holds no file {place.gguf}; {_name_one(there)}")


def _names(place: Located) -> list[str]:
    """The GGUFs of a folder or repository, sorted."""
    names = place.remote.names() if place.remote else [p.name for p in place.folder.iterdir()]
    return sorted(name for name in names if name.endswith(GGUF))


def _name_one(names: list[str]) -> str:
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))
    return f"name one with --gguf-file: {shown}" if names else "it has no GGUF"


def open_gguf(file: Path, repository: Path | None = None) -> tuple[Path, list[str]]:
    """Returns the model folder made of a GGUF, and what a user should know of it.

    Args:
        repository: Folder whose licence is that of the file.

    Raises:
        UserError: It cannot be read, or memory or disk do not hold its dequantised weights.
    """
    require("gguf")
    if _PART.search(file.name):
        raise UserError(
            f"{file}: is one of several parts; join them first (llama-gguf-split --merge)"
        )
    status = file.stat()
    made = _made(file.absolute(), status.st_mtime_ns, status.st_size)
    folder = Path(made.folder.name) / file.stem
    if repository:
        for name in files_beside(repository, LEGAL):
            shutil.copyfile(repository / name, folder / name)
    return folder, made.remarks


@dataclass(frozen=True)
class _Made:
    folder: TemporaryDirectory[str]
    remarks: list[str]


@cache
def _made(file: Path, *stamp: int) -> _Made:
    """The folder of a file in this state, for as long as the process lives."""
    contents = _contents(file)
    parent = TemporaryDirectory(prefix="bitstack-gguf-")
    _check_room(file, contents, Path(parent.name))
    folder = Path(parent.name) / file.stem
    model = _dequantised(file, contents.dtype)
    try:
        model.save_pretrained(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot write ({one_line(error)}); {_OTHER_DISK}") from None
    return _Made(parent, contents.remarks + _save_tokenizer(file, folder))


def _contents(file: Path) -> Contents:
    from gguf import GGUFReader

    try:
        tensors = GGUFReader(file).tensors
    except Exception as error:  # a broken file ends in errors of many types
        raise UserError(f"{file}: cannot be read as GGUF: {one_line(error)}") from None
    matrices = [t for t in tensors if len(t.shape) > 1]
    weights = sum(int(t.n_elements) for t in matrices)
    bits = 8 * sum(int(t.n_bytes) for t in matrices) / max(1, weights)
    kinds = {t.tensor_type.name for t in tensors}
    halves = {"BF16", "F16"} & kinds
    exact = len(halves) == 1 and kinds <= set(_PLAIN)  # norms in 32 bits were made of these
    dtype = _PLAIN[halves.pop()] if exact else torch.float32
    return Contents(weights, bits, dtype, frozenset(t.name for t in tensors))


def _check_room(file: Path, contents: Contents, folder: Path) -> None:
    """Raises UserError where memory or disk cannot hold the dequantised weights once."""
    needed = contents.weights * contents.dtype.itemsize
    free, room = shutil.disk_usage(folder).free, memory_room()
    if free < needed:
        raise UserError(
            f"{file}: {format_bytes(needed)} of disk are needed in {tempfile.gettempdir()} for its "
            f"dequantised weights, but {format_bytes(free)} are free; {_OTHER_DISK}"
        )
    if room is not None and room < needed:
        raise UserError(
            f"{file}: {format_bytes(needed)} of memory are needed for its dequantised weights, but "
            f"{format_bytes(room)} can be had; close other programs, or give a folder of "
            "safetensors files, which are read layer by layer"
        )


def _dequantised(file: Path, dtype: torch.dtype) -> Any:
    try:
        with redirect_stderr(StringIO()):  # its bar would be drawn whether it is a terminal or not
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True),
                dtype=dtype, trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # transformers checks little of a GGUF before it reads it
        raise UserError(f"{file}: transformers cannot read this GGUF: {one_line(error)}") from None
    model, info = loaded
    missing = sorted({*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])})
    if missing:
        raise UserError(
            f"{file}: transformers finds no weights for {missing[0]} in this GGUF; give the model "
            "it was made from"
        )
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the folder is a plain model
    return model


def _save_tokenizer(file: Path, folder: Path) -> list[str]:
    """Writes tokenizer and chat template; returns a remark where the GGUF gives none."""
    try:
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    except Exception as error:  # as above
        return [f"no tokenizer, because transformers cannot read this GGUF's: {one_line(error)}"]
    return []
