"""A plan says exactly what loading will give, and refuses what cannot be planned.

Also covers `container.levels`.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_line import python
from transformers import AutoConfig

import bitstack
from bitstack import kernels
from bitstack.compression.pipeline import compress
from bitstack.container import planning
from bitstack.container.kv_cache import kv_cache_bytes
from bitstack.container.manifest import FIRST_WITH_CACHE, MANIFEST, checksum_of
from bitstack.container.planning import DEFAULT_STEPS, plan
from bitstack.errors import UserError
from bitstack.live.loading import load
from bitstack.original.skeleton import skeleton


@pytest.fixture(scope="module")
def container(pico_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "c"
    model = pico_model("llama-gqa", dtype=torch.bfloat16)
    return compress(model, folder, blocks=3, calibration="none")


def test_a_plan_says_what_loading_will_give(container: Path) -> None:
    rows = plan(container)
    assert len(rows) == DEFAULT_STEPS + 1
    assert (rows[0].budget, rows[-1].budget) == ("floor", "everything")
    for row in rows:
        model = load(container, row.budget_bytes)
        assert model.bitstack.resident_bytes == row.resident_bytes <= row.budget_bytes
        assert model.bitstack.bits_per_weight == row.bits_per_weight
        assert (min(model.bitstack.levels), max(model.bitstack.levels)) == (
            row.lowest_level,
            row.highest_level,
        )
        assert row.lowest_level <= row.mean_level <= row.highest_level
        assert row.original_share == row.resident_bytes / model.bitstack.manifest.original_bytes
    sizes = [row.resident_bytes for row in rows]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 3


def test_the_cache_is_that_of_the_models_dtype(container: Path) -> None:
    config = AutoConfig.from_pretrained(container)
    (row,) = plan(container, "100%", context=100)
    assert row.kv_cache_bytes == kv_cache_bytes(skeleton(config, torch.bfloat16), 100)
    assert row.kv_cache_bytes == kv_cache_bytes(skeleton(config, torch.float32), 100) // 2
    assert row.total_bytes == row.resident_bytes + row.kv_cache_bytes
    assert plan(container)[0].context == config.max_position_embeddings


def test_budgets_of_every_form_in_the_order_asked(container: Path) -> None:
    total = plan(container)[-1].resident_bytes
    rows = plan(container, ["2.5bpw", total, "40%", f"{total}B"])
    assert [row.budget for row in rows] == ["2.5bpw", str(total), "40%", f"{total}B"]
    assert rows[1].resident_bytes == rows[3].resident_bytes == total
    assert 2 < rows[0].bits_per_weight <= 2.5
    assert rows[2].original_share <= 0.4


def test_what_cannot_be_planned_is_refused(container: Path, tmp_path: Path) -> None:
    floor = plan(container)[0].resident_bytes
    with pytest.raises(UserError, match=f"floor of this model: {floor} bytes"):
        plan(container, floor - 1)
    with pytest.raises(UserError, match="not understood"):
        plan(container, ["50%", "3 bananas"])
    for context in (0, 129):
        with pytest.raises(UserError, match=f"context is {context} tokens.* at most 128"):
            plan(container, context=context)
    with pytest.raises(UserError, match="no such folder"):
        plan(tmp_path / "nowhere")


def test_containers_of_older_formats_are_planned_too(container: Path, tmp_path: Path) -> None:
    """Their manifest does not say what the KV cache takes: the model's code does."""
    shutil.copytree(container, tmp_path / "c")
    path = tmp_path / "c" / MANIFEST
    data = json.loads(path.read_text()) | {"format": FIRST_WITH_CACHE - 1}
    del data["positions"], data["kv_cache"]
    path.write_text(json.dumps(data | {"checksum": checksum_of(data)}))
    assert plan(tmp_path / "c", context=100) == plan(container, context=100)


def test_a_plan_imports_no_torch(container: Path) -> None:
    code = (
        "import sys, bitstack\n"
        f"rows = bitstack.plan({str(container)!r})\n"
        "print(len(rows), [m for m in ('torch', 'transformers', 'scipy') if m in sys.modules])"
    )
    result = python("-c", code)
    assert result.stdout == f"{DEFAULT_STEPS + 1} []\n", result.stderr


def test_the_kernel_and_why(container: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "has_gpu", lambda: False)
    for row in plan(container):
        assert (row.kernel, row.kernel_reason) == kernels.which("cpu")
    monkeypatch.setenv("BITSTACK_KERNEL", "reference")
    assert plan(container)[0].kernel == "reference"
    assert plan(container)[0].kernel_reason == "set by BITSTACK_KERNEL"
    monkeypatch.setattr(planning, "has_gpu", lambda: True)
    assert plan(container)[0].kernel == kernels.which("cuda").name


def test_it_is_public(container: Path) -> None:
    assert bitstack.plan(container) == plan(container)
