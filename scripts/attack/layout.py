"""Where everything lies in a container: the bytes of every tensor, header and small file.

Read from the files themselves. Does not change them; see `attack.faults`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitstack.container.manifest import read_manifest


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Returns where the data of a safetensors file begin, and its header."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    return start, json.loads(data[8:start])


@dataclass
class Layout:
    """The parts of a container that loading all of it reads; lower chains of planes are none."""

    folder: Path
    shards: list[str] = field(default_factory=list)
    places: dict[str, tuple[str, int, int]] = field(default_factory=dict)  # file, first, last byte
    tensors: dict[str, list[str]] = field(default_factory=dict)  # planes, scales, dense
    files: dict[str, list[tuple[str, int]]] = field(default_factory=dict)  # file, bytes from 0 on

    def __post_init__(self) -> None:
        folder = self.folder
        self.shards = sorted(path.name for path in folder.glob("model.bitstack-*.safetensors"))
        self.tensors = {"planes": [], "scales": [], "dense": []}
        self.files = {"header": []}
        manifest = read_manifest(folder)
        read = {*manifest.tensors(manifest.budgets.levels(manifest.budgets.total_bytes)[0])}
        for file in self.shards:
            start, header = read_header(folder / file)
            if read & header.keys():
                self.files["header"].append((file, start))
            for name, entry in header.items():
                if name in read:
                    first, end = entry["data_offsets"]
                    self.places[name] = file, start + first, start + end - 1
                    self.tensors[_part(name)].append(name)
        small = {
            "manifest": ["bitstack.json"],
            "config": ["config.json", "generation_config.json"],
            "index": ["model.safetensors.index.bitstack.json"],
            "recipe": ["recipe.yaml"],
            "tokenizer": ["tokenizer.json", "tokenizer_config.json"],
        }
        for part, names in small.items():
            held = [name for name in names if (folder / name).exists()]
            self.files[part] = [(name, (folder / name).stat().st_size) for name in held]


def _part(name: str) -> str:
    last = name.rpartition(".")[2]
    if last.startswith(("plane_", "fine")):
        return "planes"
    return "scales" if last.startswith(("scale_", "outlier_", "left_", "right_")) else "dense"
