"""Makes a container of random blocks for any model shape, in seconds.

For benchmarks of speed and memory, which do not depend on the values. Its text is noise.
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers import PretrainedConfig

from bitstack.container.blocks import StackSpec, TensorSpec, tensor_order
from bitstack.container.entries import DenseEntry, StackEntry
from bitstack.container.journal import Journal
from bitstack.container.kv_cache import kv_cache
from bitstack.container.manifest import Manifest
from bitstack.container.shards import write_shards
from bitstack.decompose.form import ROTATION
from bitstack.original.matrices import find_dense, find_matrices
from bitstack.original.model_limits import positions
from bitstack.original.skeleton import skeleton


def random_container(
    folder: Path,
    config: PretrainedConfig,
    *,
    planes: int = 4,
    dtype: torch.dtype = torch.bfloat16,
    seed: int = 0,
) -> Path:
    """Writes a container into `folder`; returns `folder`.

    At every level the columns of a matrix have norm 1, so that activations stay finite. Inputs are
    rotated, as `run` rotates most. The order raises all stacks by one level before the next.

    Args:
        folder: A new folder.
        config: Shape of the model.
        planes: Bit planes of every matrix.
        dtype: Of the dense tensors.
        seed: Seed of the random planes.
    """
    generator = torch.Generator().manual_seed(seed)
    model = skeleton(config, dtype)
    matrices = find_matrices(model)
    dense = find_dense(model, matrices)
    specs = {
        m.name: StackSpec("codes", m.rows, m.columns, planes, rotation=ROTATION) for m in matrices
    }
    stored = [d.name for d in dense if d.persistent]
    journal = Journal(folder, "random")
    if stored:
        tensors = {d.name: torch.ones(d.shape, dtype=d.dtype) for d in dense if d.persistent}
        journal.put("dense", tensors, {})
    for index, (name, spec) in enumerate(specs.items()):
        tensors = {f"{name}.{t.name}": _random(spec, t, generator) for t in spec.all()}
        journal.put(f"{index:05d}", tensors, {})
    order = [i for _ in range(1, planes) for i in range(len(specs))]
    total = sum(t.bytes for spec in specs.values() for t in spec.all())
    names = list(tensor_order(stored, specs, order))
    guard = matrices[0].parameter
    shards = write_shards(folder, journal, names, total, guard=guard)
    journal.remove()
    config_fields = config.to_dict() | {"quantization_config": {"quant_method": "bitstack"}}
    (folder / "config.json").write_text(json.dumps(config_fields))
    Manifest(
        base_model="random",
        original_bytes=sum(p.numel() * p.dtype.itemsize for p in model.parameters()),
        dtype=str(dtype).removeprefix("torch."),
        stacks=[StackEntry.of(m, specs[m.name], []) for m in matrices],
        dense=[DenseEntry.of(d) for d in dense],
        order=order,
        shards=shards,
        recipe={"name": "random", "seed": seed},
        versions={"bitstack": version("bitstack")},
        positions=positions(model),
        kv_cache=kv_cache(model),
    ).write(folder)
    return folder


def _random(spec: StackSpec, tensor: TensorSpec, generator: torch.Generator) -> Tensor:
    if tensor.dtype == "uint8":
        plane = torch.randint(256, tensor.shape, dtype=torch.uint8, generator=generator)
        if spec.columns % 8:
            plane[:, -1] &= (1 << spec.columns % 8) - 1  # bits beyond the last column are zero
        return plane
    size = tensor.shape[0] - spec.rows - spec.columns  # of the table
    table = torch.linspace(-1, 1, size) * 3**0.5
    u = torch.full((spec.rows,), spec.columns**-0.5)
    return torch.cat([u, torch.ones(spec.columns), table]).half()
