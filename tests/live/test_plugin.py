"""`import bitstack` in a fresh interpreter: quick, in any order, and missed when left out."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Folder = Callable[..., Path]
OPEN = "AutoModelForCausalLM.from_pretrained({folder!r}, variant='bitstack')"


def python(*lines: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, env=env
    )


@pytest.mark.parametrize(
    "imports",
    [
        ["import bitstack", "from transformers import AutoModelForCausalLM"],
        ["from transformers import AutoModelForCausalLM, PreTrainedModel", "import bitstack"],
    ],
    ids=["bitstack first", "transformers first"],
)
def test_registered_in_any_order(stacked: Folder, imports: list[str]) -> None:
    folder = str(stacked("llama-tied", calibration="none"))
    done = python(
        *imports,
        f"model = {OPEN.format(folder=folder)}",
        "print(type(model.hf_quantizer).__name__, model.bitstack.resident_bytes)",
    )
    assert done.stdout.startswith("BitstackQuantizer"), done.stderr


def test_without_bitstack_it_fails(stacked: Folder) -> None:
    """Neither as what it is nor as an ordinary model: random weights would be worse."""
    folders = [str(stacked(name, calibration="none")) for name in ("llama-tied", "gpt-2")]
    lines = ["from transformers import AutoModelForCausalLM"]
    for folder in folders:
        for call in (OPEN, "AutoModelForCausalLM.from_pretrained({folder!r})"):
            lines += [
                "try:",
                f"    {call.format(folder=folder)}",
                "    print('loaded')",
                "except (RuntimeError, OSError) as error:",
                "    print('refused', type(error).__name__)",
            ]
    done = python(*lines)
    assert done.stdout.split() == ["refused", "RuntimeError", "refused", "OSError"] * 2, done.stderr


def test_import_is_light() -> None:
    """Neither torch nor transformers, whose import brings the rest; the watch ends there."""
    done = python(
        "import sys, time",
        "import bitstack",
        "print(*{'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules))",
        "import transformers.modeling_utils, transformers.models.auto",
        "start = time.process_time()",
        "bitstack.load",
        "print(time.process_time() - start)",
        "print([f for f in sys.meta_path if type(f).__module__.startswith('bitstack')])",
    )
    assert done.returncode == 0, done.stderr
    loaded, seconds, watches = done.stdout.splitlines()
    assert (loaded, watches) == ("", "[]")
    assert float(seconds) < 1.5  # of one core, for all that loading a model needs; measured: 0.5
