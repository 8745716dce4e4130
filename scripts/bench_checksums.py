"""Measures what looking at checksums costs when a container is loaded.

    python scripts/bench_checksums.py [--gigabytes 1] [--repeats 5] [--json FILE]

Makes a container of random blocks with the shape of a Llama in a temporary folder, and loads all of
it with and without `verify`, in turns: from the page cache, and from the disk, after the kernel was
asked to drop the files' pages (Linux). Prints the least seconds of each, because other work on the
machine only adds to them, and the extra time in percent. A row tells how fast the sums alone are.
"""

import argparse
import gc
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from random_container import random_container
from transformers import LlamaConfig
from xxhash import xxh3_64

from bitstack import load
from bitstack.commands.shared import errors_in_one_line
from bitstack.container.manifest import read_manifest
from bitstack.container.reading import BlockReader
from bitstack.machine.files import write_json

PLANES = 8
WIDTH, FFN, VOCABULARY = 2048, 8192, 32_000


@dataclass(frozen=True)
class Row:
    """Seconds of one way to read a container, without and with checksums."""

    what: str
    without_s: float
    with_s: float
    without_cpu_s: float  # of all threads, which other work on the machine hardly changes
    with_cpu_s: float

    @property
    def added(self) -> float:
        """Share that checksums add to the time."""
        return self.with_s / self.without_s - 1

    @property
    def added_cpu(self) -> float:
        """Share that checksums add to the time of the processor."""
        return self.with_cpu_s / self.without_cpu_s - 1


def config(gigabytes: float) -> LlamaConfig:
    """Returns a Llama whose container has about that many bytes, at one byte a weight."""
    layer = 2 * WIDTH * WIDTH + 2 * WIDTH * WIDTH // 4 + 3 * WIDTH * FFN
    layers = max(1, round((gigabytes * 1e9 - VOCABULARY * WIDTH) / layer))
    return LlamaConfig(
        hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=layers, head_dim=64,
        num_attention_heads=32, num_key_value_heads=8, vocab_size=VOCABULARY,
        tie_word_embeddings=True,
    )  # fmt: skip


def load_all(folder: Path, verify: bool) -> None:
    """Loads the whole model and drops it."""
    load(folder, verify=verify)
    gc.collect()


def read_all(folder: Path, verify: bool) -> None:
    """Reads every tensor, one after another, and no more."""
    reader = BlockReader(folder, manifest=read_manifest(folder), verify=verify)
    for name in reader.placed:
        reader.get(name)
    reader.close()


def drop_pages(folder: Path) -> None:
    """Asks the kernel to forget the files, so that they are read from the disk again."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(
    what: str, call: Callable[[Path, bool], None], folder: Path, repeats: int, cold: bool
) -> Row:
    """Times both in turns, and in both orders; the first round warms up."""
    seconds: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for turn in range(repeats + 1):
        for verify in (False, True) if turn % 2 else (True, False):
            if cold:
                drop_pages(folder)
            started = time.perf_counter(), time.process_time()
            call(folder, verify)
            if turn:
                ended = time.perf_counter(), time.process_time()
                seconds[verify].append((ended[0] - started[0], ended[1] - started[1]))
    (without, without_cpu), (summed, summed_cpu) = (
        map(min, zip(*seconds[verify], strict=True)) for verify in (False, True)
    )
    return Row(what, without, summed, without_cpu, summed_cpu)


def speed(size: int = 256 << 20) -> float:
    """Returns bytes a second of the checksum alone, in pieces that stay in the cache."""
    data = torch.zeros(256 << 10, dtype=torch.uint8).numpy().data
    digest, started = xxh3_64(), time.perf_counter()
    for _ in range(size // len(data)):
        digest.update(data)
    return size / (time.perf_counter() - started)


def measure(gigabytes: float, repeats: int) -> tuple[int, list[Row]]:
    """Returns the bytes of a container, and all rows."""
    with tempfile.TemporaryDirectory() as folder:
        container = random_container(Path(folder) / "c", config(gigabytes), planes=PLANES)
        size = sum(shard.bytes for shard in read_manifest(container).shards)
        kinds = [("page cache", False)]
        if hasattr(os, "posix_fadvise"):
            kinds.append(("disk", True))
        calls = [("load", load_all), ("read every tensor", read_all)]
        return size, [
            compare(f"{name}, {kind}", call, container, repeats, cold)
            for kind, cold in kinds
            for name, call in calls
        ]


def main() -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=1, help="bytes of the container, in GB")
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds")
    parser.add_argument("--json", type=Path, help="file to write the rows to")
    options = parser.parse_args()
    with errors_in_one_line():
        size, rows = measure(options.gigabytes, options.repeats)
        print(f"container: {size:,} bytes; checksums alone: {speed() / 1e9:.1f} GB/s")
        print("what | seconds without | with | added | CPU seconds without | with | added")
        for row in rows:
            wall = f"{row.without_s:.3f} | {row.with_s:.3f} | {row.added:+.1%}"
            cpu = f"{row.without_cpu_s:.3f} | {row.with_cpu_s:.3f} | {row.added_cpu:+.1%}"
            print(f"{row.what} | {wall} | {cpu}")
        if options.json:
            records = [
                asdict(row) | {"added": row.added, "added_cpu": row.added_cpu} for row in rows
            ]
            write_json(options.json, {"container_bytes": size, "rows": records})


if __name__ == "__main__":
    main()
