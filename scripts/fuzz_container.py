"""Damages a small container at random, reads it, and says how reading ended.

    python scripts/fuzz_container.py [--cases 100000] [--seed 0] [--keep FOLDER] [--json FILE]
    python scripts/fuzz_container.py --replay tests/container/corpus

A case changes one file: `bitstack.json`, the index, a shard, or a recipe. Half of the changes are
of bytes (flipped, cut, doubled), half of values in the parsed JSON or YAML (other types, sizes and
signs, names with `../`, deep nesting). Then all readers run: `read_manifest`, `BlockReader` over
every tensor, for one case in fifty `bitstack.load` of the whole model, or `load_recipe`. Each must
end with success or `UserError`. Other ends are counted by exception and place; `--keep` writes the
first input of each as FILE-NAME.N, which `--replay` reads again. Memory is limited to 8 GiB more
than at the start, so that an input that asks for too much ends in MemoryError. It is a mutation
fuzzer without coverage: every case follows from seed and number. Unix only.
"""

import argparse
import copy
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from random_container import random_container
from transformers import LlamaConfig

import bitstack
from bitstack import recipes
from bitstack.container.manifest import INDEX, MANIFEST, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.errors import UserError

RECIPE = "recipe.yaml"
_HEADER = 8  # bytes of a safetensors file that say how long its header is
_STRANGE: list[Any] = [
    0, -1, 1, 2, 7, 9, 255, 2**31, 2**40, 2**63, 2**64, -(2**63), 0.5, 1e308, float("nan"),
    float("inf"), None, True, False, "", "x", "..", "../x", "/etc/passwd", "a\0b", "é" * 300, [],
    {}, [[]], [0], [-1, 2**40], {"": 0}, "codes", "signs", "U8", "F16", "float16", "9" * 5000,
]  # fmt: skip


def make(folder: Path) -> Path:
    """Writes the container that is damaged, with a recipe beside it; returns `folder`."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    random_container(folder, config, planes=3)
    shutil.copy(recipes.named("default"), folder / RECIPE)
    return folder


def damaged(name: str, whole: bytes, chance: random.Random) -> bytes:
    """Returns the bytes of a file with one to three changes."""
    for _ in range(chance.randint(1, 3)):
        values = chance.random() < 0.5
        with suppress(ValueError, yaml.YAMLError, RecursionError, UnicodeError, OverflowError):
            whole = _other_value(name, whole, chance) if values else _other_bytes(whole, chance)
    return whole


def _other_bytes(whole: bytes, chance: random.Random) -> bytes:
    at = chance.randint(0, max(len(whole) - 1, 0))
    end = min(len(whole), at + chance.choice([1, 1, 2, 8, 64]))
    kind = chance.randrange(6)
    if kind == 0:
        return whole[:at]
    if kind == 1:
        return whole[:at] + whole[end:]
    if kind == 2:
        return whole[:end] + whole[at:]
    if kind == 3:
        return whole[:at] + chance.randbytes(end - at) + whole[end:]
    if kind == 4:
        return whole[:at] + chance.choice([b"[", b'{"a":']) * 3_000 + whole[at:]
    flipped = bytes([whole[at] ^ 1 << chance.randrange(8)]) if whole else b"\0"
    return whole[:at] + flipped + whole[at + 1 :]


def _other_value(name: str, whole: bytes, chance: random.Random) -> bytes:
    """Changes a value of the JSON, of a shard's header, or of the YAML."""
    if name == RECIPE:
        return yaml.safe_dump(_changed(yaml.safe_load(whole), chance)).encode()
    if not name.endswith(".safetensors"):
        return json.dumps(_changed(json.loads(whole), chance)).encode()
    end = _HEADER + int.from_bytes(whole[:_HEADER], "little")
    header = json.dumps(_changed(json.loads(whole[_HEADER:end]), chance)).encode()
    return len(header).to_bytes(_HEADER, "little") + header + whole[end:]


def _changed(data: Any, chance: random.Random) -> Any:
    """Returns a copy with one value, key or length changed, somewhere."""
    data = copy.deepcopy(data)
    at, places = data, []
    while isinstance(at, dict | list) and at:
        key = chance.choice(list(at)) if isinstance(at, dict) else chance.randrange(len(at))
        places.append((at, key))
        at = at[key]
    if not places:
        return chance.choice(_STRANGE)
    holder, key = chance.choice(places)
    kind = chance.randrange(4)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder[:8]))
    elif kind == 2 and isinstance(holder, dict):
        holder[str(chance.choice(_STRANGE))] = copy.deepcopy(holder[key])
    else:
        holder[key] = copy.deepcopy(chance.choice(_STRANGE))
    return data


def read(folder: Path, name: str, *, load: bool) -> str:
    """Reads what the file `name` belongs to; returns how that ended.

    Returns:
        "success", "UserError", or the exception and the place where it was raised.
    """
    try:
        if name == RECIPE:
            bitstack.load_recipe(folder / RECIPE)
        elif load:
            bitstack.load(folder)
        else:
            _read_tensors(folder)
    except UserError:
        return "UserError"
    except Exception as error:
        return f"{type(error).__name__} at {_place(error)}"
    return "success"


def _read_tensors(folder: Path) -> None:
    manifest = read_manifest(folder)
    reader = BlockReader(folder)
    try:
        for point in manifest.tensors([entry.levels for entry in manifest.stacks]):
            reader.get(point)
    finally:
        reader.close()


def _place(error: BaseException) -> str:
    """The last of our own lines that the exception went through, as file:function."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "/bitstack/" in f.filename or "/recipes/" in f.filename]
    last = own[-1] if own else frames[-1]
    return f"{Path(last.filename).parent.name}/{Path(last.filename).name}:{last.name}"


def fuzz(folder: Path, cases: int, seed: int) -> Iterator[tuple[str, bytes, str]]:
    """Yields file, its damaged bytes and outcome of every case; the folder is whole after each."""
    names = [MANIFEST, INDEX, RECIPE, *sorted(p.name for p in folder.glob("*.safetensors"))]
    whole = {name: (folder / name).read_bytes() for name in names}
    for case in range(cases):
        chance = random.Random(f"{seed} {case}")
        name = chance.choice(names)
        data = damaged(name, whole[name], chance)
        yield name, data, one(folder, name, data, load=case % 50 == 0)


def one(folder: Path, name: str, data: bytes, *, load: bool) -> str:
    """Reads the container with `data` in place of its file `name`."""
    path = folder / name
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        return read(folder, name, load=load)
    finally:
        path.write_bytes(whole)


def replay(folder: Path, corpus: Path) -> dict[str, str]:
    """Reads every kept input again, as tensors and as a model; returns the outcome of each."""
    ends: dict[str, str] = {}
    for path in sorted(corpus.iterdir()):
        name = path.name.rpartition(".")[0]
        results = [one(folder, name, path.read_bytes(), load=load) for load in (False, True)]
        ends[path.name] = next((r for r in results if " at " in r), results[0])
    return ends


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        most = pages * resource.getpagesize() + (8 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=100_000, help="damaged inputs to read")
    parser.add_argument("--seed", type=int, default=0, help="of the changes")
    parser.add_argument("--keep", type=Path, help="folder for one input of each wrong end")
    parser.add_argument("--replay", type=Path, help="only read the inputs of this folder again")
    parser.add_argument("--json", type=Path, help="write outcomes to this file")
    options = parser.parse_args()
    _limit_memory()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = make(Path(temporary) / "container")
        start = time.monotonic()
        if options.replay:
            ends.update(f"{k}: {v}" for k, v in replay(folder, options.replay).items())
        else:
            for name, data, end in fuzz(folder, options.cases, options.seed):
                ends[end] += 1
                if options.keep and " at " in end and ends[end] == 1:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{name}.{len(ends)}").write_bytes(data)
        seconds = time.monotonic() - start
    for end, count in ends.most_common():
        print(f"{count:>8}  {end}")
    print(f"{sum(ends.values()):>8}  cases, {sum(ends.values()) / seconds:.0f} a second")
    if options.json:
        options.json.write_text(json.dumps({"ends": ends, "seconds": seconds}, indent=1))
    return 1 if any(" at " in end for end in ends) else 0


if __name__ == "__main__":
    sys.exit(main())
