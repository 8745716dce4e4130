"""Containers that somebody made on purpose, with every checksum renewed: 200 and more of them.

Numbers, strings and structure of the manifest, the config and other settings, headers, and files
that are none. Accidents are in `attack.faults`.
"""

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attack.faults import Fault
from attack.layout import Layout, read_header
from bitstack.container import checksums
from bitstack.container.manifest import MANIFEST, checksum_of

Change = Callable[[Any], Any]
NUMBERS = [-1, 0, 9, 2**31, 10**18, 10**30, -(10**9), 1.5, True, "8", [], None]
_FIELDS = [
    ("stacks", 0, "rows"), ("stacks", 0, "columns"), ("stacks", 0, "levels"),
    ("stacks", 1, "levels"), ("stacks", 0, "rank"), ("stacks", 0, "outliers"),
    ("stacks", 1, "layer"), ("stacks", 1, "expert"), ("stacks", 1, "first_row"),
    ("dense", 0, "bytes"), ("dense", 0, "shape", 0), ("shards", 0, "bytes"),
]  # fmt: skip
_HARMLESS = {("rank", 0), ("layer", 0), ("outliers", 0), ("layer", None), ("first_row", None)}
STRINGS = ["", "a/b", "../x", "a\nb", "x" * 10_000, "model", "\u202e", "\x1b[31m", 5, None]
_TEXTS = [
    ("stacks", 0, "name"), ("stacks", 0, "parameter"), ("stacks", 0, "module"),
    ("stacks", 0, "kind"), ("stacks", 0, "format"), ("dense", 0, "name"), ("dense", 0, "dtype"),
    ("shards", 0, "file"), ("shards", 0, "sha256"),
]  # fmt: skip
_FILE_NAMES = [
    "../x.safetensors", "/etc/passwd", "a/b.safetensors", ".x.safetensors", "config.json",
]  # fmt: skip
_COUNTS = [10**6, 10**9, -1, 0, "2", 1.5, [], None]


def hostile(layout: Layout) -> Iterator[Fault]:
    """All of them."""
    yield from _numbers(layout)
    yield from _strings()
    yield from _structure(layout)
    yield from _config(layout)
    yield from _settings(layout)
    yield from _headers(layout)
    yield from _files(layout)


def _manifest(kind: str, change: Change, text: str) -> Fault:
    """A changed manifest whose checksum is right again.

    One that fits itself can only be told from the files beside it by comparing them.
    """

    def damage(folder: Path) -> None:
        data = json.loads((folder / MANIFEST).read_text())
        made = change(data)
        data = data if made is None else made
        if isinstance(data, dict):
            data["checksum"] = checksum_of(data)
        (folder / MANIFEST).write_text(json.dumps(data))

    return Fault(kind, (MANIFEST, "config.json", ".safetensors"), damage, text)


def _set(path: tuple[Any, ...], value: Any) -> Change:
    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return change


def _numbers(layout: Layout) -> Iterator[Fault]:
    held = json.loads((layout.folder / MANIFEST).read_text())
    for path in _FIELDS:
        now = held
        for key in path:
            now = now[key]
        for value in NUMBERS:
            same = value == now and type(value) is type(now)
            known = isinstance(value, str | list) or (path[-1], value) not in _HARMLESS
            if not same and (known or value is True):
                yield _manifest("hostile numbers", _set(path, value), f"{path} = {value}")
    for value in (-1, 10**30, "x", 2**63, 1.5):
        yield _manifest("hostile numbers", _set(("stacks", 0, "rotation"), value), "rotation")
    for ends in ([0], [9], [4, 4], [-1], ["4"], list(range(1, 20))):
        yield _manifest("hostile numbers", _set(("stacks", 0, "ends"), ends), f"ends {ends}")
    for order in ([-1], [10**6], [0] * 100, [0.5], ["0"], [True], [0] * 10**6):
        yield _manifest("hostile numbers", _set(("order",), order), f"order {order[:3]}")
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "9" * 5000):
        yield _raw("hostile numbers", MANIFEST, b'"losses": []', f'"losses": [{number}]'.encode())


def _strings() -> Iterator[Fault]:
    for path in _TEXTS:
        for value in STRINGS:
            yield _manifest("hostile strings", _set(path, value), f"{path} = {str(value)[:20]!r}")
    for value in _FILE_NAMES:
        yield _manifest("hostile strings", _set(("shards", 0, "file"), value), f"file {value}")
    for value in ("\x1b[31m", "a\nb", 5, None, "x" * 10_000):
        yield _manifest(
            "hostile strings", _set(("base_model",), value), f"base_model {value!r:.20}"
        )
    for value in ("int8", "load", "complex64", "", 5):
        yield _manifest("hostile strings", _set(("dtype",), value), f"dtype {value}")
    yield _raw("hostile strings", MANIFEST, b'"losses": []', b'"losses": ["\\ud800"]')


def _structure(layout: Layout) -> Iterator[Fault]:
    kind = "hostile structure"
    held = json.loads((layout.folder / MANIFEST).read_text())
    for key in ("base_model", "original_bytes", "dtype", "stacks", "dense", "order", "shards"):
        yield _manifest(kind, lambda data, key=key: data.pop(key) and None, f"without {key}")
    for key in ("name", "parameter", "module", "kind", "rows", "columns", "format", "levels"):
        yield _manifest(kind, lambda d, key=key: d["stacks"][0].pop(key) and None, f"without {key}")
    for key in ("stacks", "dense", "shards"):
        if len(held[key]) > 1:
            yield _manifest(kind, lambda d, key=key: d[key].reverse(), f"{key} reversed")
        yield _manifest(kind, lambda d, key=key: d[key].append(d[key][0]), f"{key} twice")
        yield _manifest(kind, lambda d, key=key: d[key].pop() and None, f"{key} fewer")
        yield _manifest(kind, _set((key,), []), f"no {key}")
        yield _manifest(kind, _set((key,), {}), f"{key} an object")
    yield _manifest(kind, lambda d: d["order"].append(0), "order longer")
    yield _manifest(kind, lambda d: d["order"].pop() and None, "order shorter")
    yield _manifest(kind, _set(("extra",), 1), "an unknown field")
    yield _manifest(kind, _set(("stacks", 0, "extra"), 1), "an unknown field of a stack")
    for sums in (None, [], ["0" * 16], "0" * 16, [5]):
        yield _manifest(kind, _set(("shards", 0, "checksums"), sums), f"checksums {sums}")
    yield _manifest(kind, _set(("recipe",), _nested(80)), "recipe of 80 floors")
    yield _raw(kind, MANIFEST, b'"losses": []', b'"losses": ' + b"[" * 10**5 + b"]" * 10**5)
    yield _raw(kind, MANIFEST, b'"losses": []', b'"losses": [], "losses": []')
    for text in (b"", b"[]", b"null", b"{}", b"5", b"\xff\xfe", b"[" * 10**6, b" " * (65 << 20)):
        yield _content(kind, MANIFEST, text)


def _config(layout: Layout) -> Iterator[Fault]:
    def changed(text: str, **fields: Any) -> Fault:
        data = json.loads((layout.folder / "config.json").read_text())
        return _content("hostile config", "config.json", json.dumps(data | fields).encode(), text)

    for field in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"):
        for count in _COUNTS:
            yield changed(f"{field} {count}", **{field: count})
    yield changed("terabytes", hidden_size=10**9, intermediate_size=10**9)
    yield changed("labels", num_labels=10**9)
    yield changed("layer types", layer_types=["full_attention"] * 10**5)
    yield changed("unknown type", model_type="nothing")
    yield changed("another type", model_type="gpt2", architectures=["GPT2LMHeadModel"])
    yield changed("a folder of code", model_type="x", auto_map={"AutoConfig": "evil.Config"})
    yield changed("kernels from elsewhere", attn_implementation="someone/kernel")
    yield changed("activation", hidden_act="nothing")
    yield changed("head size", head_dim=10**12)
    yield changed("floors", rope_parameters=_nested(80))
    for text in (b"", b"[]", b"null", b"{}", b"{", b"[" * 10**6, b'{"a": NaN}', b'{"a":1,"a":2}'):
        yield _content("hostile config", "config.json", text)


def _settings(layout: Layout) -> Iterator[Fault]:
    kind = "hostile settings"
    garbage = (b"", b"[]", b"null", b"{", b"5", b"\xff\xfe", b"[" * 10**6, b'"x"')
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        if (layout.folder / name).exists():
            for text in garbage:
                yield _content(kind, name, text)
    for text in (b'{"version": 5}', b'{"model": {"type": "Evil"}}', b'{"added_tokens": [[]]}'):
        yield replace(_content(kind, "tokenizer.json", text), named=("tokenizer",))


def _headers(layout: Layout) -> Iterator[Fault]:
    name = layout.tensors["planes"][0]
    file = layout.places[name][0]

    def entry(**fields: Any) -> Fault:
        return header(lambda h: h[name].update(fields), f"{fields}"[:60])

    def header(change: Change, text: str) -> Fault:
        def damage(folder: Path) -> None:
            start, held = read_header(folder / file)
            data = (folder / file).read_bytes()[start:]
            made = change(held)
            new = json.dumps(held if made is None else made).encode()
            _write_shard(folder, file, struct.pack("<Q", len(new)) + new + data)

        return Fault("hostile headers", (file,), damage, text)

    for shape in ([-1, 5], [0, 5], [2**40, 2**40], [1.5], ["1"], 5, [True], [], [[1]]):
        yield entry(shape=shape)
    for offsets in ([-1, 1], [0, 2**62], [5, 1], [0], [0, 1, 2], "ab", [0.0, 1.0], [True, 1]):
        yield entry(data_offsets=offsets)
    for dtype in ("F16", "X8", "", 5, None, "U8 "):
        yield entry(dtype=dtype)
    yield header(lambda h: h.pop(name) and None, "a tensor less")
    yield header(lambda h: h.update(more=h[name]), "a tensor more")
    yield header(lambda h: h.update({"__metadata__": 5}), "metadata")
    yield header(lambda h: [], "a list")
    yield header(lambda h: h.update({name: _nested(80)}), "floors")
    for length in (0, 1, 2**31, 2**63, 2**64 - 1):
        yield Fault(
            "hostile headers", (file,), _length(file, length), f"a header of {length} bytes"
        )


def _files(layout: Layout) -> Iterator[Fault]:
    names = [MANIFEST, "config.json", *(file for file, _ in layout.files["header"][:2])]
    beside = ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    for name in [*names, *(n for n in beside if (layout.folder / n).exists())]:
        for what, make in _NO_FILES.items():
            yield Fault("hostile files", (name,), _replace(name, make), f"{name}: {what}")
    yield Fault("hostile files", ("vocab.json",), _replace("vocab.json", os.mkfifo), "a new pipe")


def _link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.path.relpath(path))  # an absolute path can be too long


_NO_FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a folder": lambda path: path.mkdir(),
    "a link out": _link("/etc/hostname"),
    "a link to nothing": _link("/nothing/there"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to a device": _link("/dev/zero"),
    "a socket": _socket,
}


def _replace(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def _content(kind: str, name: str, data: bytes, text: str = "") -> Fault:
    """Another content of a file, with its checksum in the manifest."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(data)
        if name != MANIFEST:
            held = json.loads((folder / MANIFEST).read_text())
            held["files"][name] = checksums.of_bytes(data)
            (folder / MANIFEST).write_text(json.dumps(held))

    return Fault(kind, (name,), damage, f"{name}: {text or data[:20]!r}")


def _raw(kind: str, name: str, old: bytes, new: bytes) -> Fault:
    """A replacement in the text of a file, for what Python's json does not write."""

    def damage(folder: Path) -> None:
        data = (folder / name).read_bytes()
        assert old in data
        (folder / name).write_bytes(data.replace(old, new, 1))

    return Fault(kind, (name,), damage, f"{name}: {new[:30]!r}")


def _length(file: str, length: int) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(struct.pack("<Q", length) + data[8:])

    return damage


def _write_shard(folder: Path, file: str, data: bytes) -> None:
    """Writes a file of tensors, with its size in the manifest."""
    (folder / file).write_bytes(data)
    held = json.loads((folder / MANIFEST).read_text())
    for shard in held["shards"]:
        if shard["file"] == file:
            shard["bytes"] = len(data)
    held["checksum"] = checksum_of(held)
    (folder / MANIFEST).write_text(json.dumps(held))


def _nested(floors: int) -> Any:
    made: Any = {}
    for _ in range(floors):
        made = {"a": made}
    return made
