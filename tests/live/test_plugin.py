"""Containers in a fresh interpreter: known with torch alone, or by `import bitstack`."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Folder = Callable[..., Path]
OPEN = "AutoModelForCausalLM.from_pretrained({folder!r}, variant='bitstack')"


def python(*lines: str, autoload: bool = False) -> subprocess.CompletedProcess[str]:
    """Without `autoload`, torch does not look for the plug-in."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    env["TORCH_DEVICE_BACKEND_AUTOLOAD"] = str(int(autoload))
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


@pytest.mark.parametrize(
    "first",
    [
        "import torch",
        "import transformers",
        "import transformers.quantizers.auto",  # torch is imported in the midst of its import
        "from transformers import LlamaForCausalLM",
        "import safetensors.torch",
        "import bitstack, torch",
    ],
)
def test_known_without_import(stacked: Folder, first: str) -> None:
    folder = str(stacked("llama-tied", calibration="none"))
    done = python(
        first,
        "import sys",
        "from transformers import AutoModelForCausalLM",
        f"model = {OPEN.format(folder=folder)}",
        "print(type(model.hf_quantizer).__name__, model.bitstack.resident_bytes)",
        "print([f for f in sys.meta_path if type(f).__module__.startswith('bitstack')])",
        autoload=True,
    )
    assert done.stdout.startswith("BitstackQuantizer"), done.stderr
    assert done.stdout.splitlines()[1] == "[]"
    assert "UNEXPECTED" not in done.stderr


def test_torch_gets_no_heavier() -> None:
    done = python(
        "import sys, torch",
        "print(*sorted(name for name in sys.modules if name.startswith('bitstack')))",
        "print(*{'transformers', 'pydantic'} & set(sys.modules))",
        autoload=True,
    )
    assert done.returncode == 0, done.stderr
    ours, heavy = done.stdout.splitlines()
    assert set(ours.split()) == {"bitstack", "bitstack.live", "bitstack.live.plugin"}
    assert heavy == ""


def test_a_plug_in_that_fails_lets_torch_be_imported() -> None:
    """As with a transformers that has no such registry any more."""
    done = python(
        "import sys, types",
        "broken = types.ModuleType('transformers.quantizers.auto')",
        "broken.register_quantizer = None",
        "sys.modules['transformers.quantizers.auto'] = broken",
        "import torch",
        "print(torch.ones(2).sum().item())",
        autoload=True,
    )
    assert done.stdout.strip() == "2.0", done.stderr
    assert "bitstack: not known to transformers" in done.stderr
    assert "Traceback" not in done.stderr


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
