"""The NEON variants, compiled here for 64-bit Arm and run by qemu's user mode emulation.

The tests of this folder call them as they call the variants of this machine: the same matrices,
the same reference, the same bounds. Every buffer ends at a page that may not be read. Time cannot
be measured so; the instructions are counted.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bitstack.kernels import library, native, rotation, selection

from .conftest import make_coded

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
sys.path.append(str(SCRIPTS))

import count_instructions  # noqa: E402
from emulation import build  # noqa: E402
from emulation.library import EmulatedLibrary  # noqa: E402

ALL = ["neon-i8mm", "neon-dotprod", "neon"]  # best first
# What qemu calls a processor, and the variants that it runs.
PROCESSORS = {"max": ALL, "cortex-a76": ALL[1:], "cortex-a72": ALL[2:]}
HERE = ["attention", "products", "native", "rotation", "outliers", "matmul", "wrong_calls"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps what is compiled for Arm."""
    if reason := build.ARM.missing():
        pytest.skip(reason)
    return tmp_path_factory.mktemp("arm")


@pytest.fixture(scope="module")
def program(folder: Path) -> Path:
    """The library, with the program that answers calls of it."""
    return build.build(build.ARM, "serve.cpp", folder)


def run_tests(program: Path, *options: str) -> str:
    """Runs the tests of this folder with the library; returns what pytest printed."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    mine["BITSTACK_EMULATED"] = json.dumps(build.ARM.command(program))
    mine["PYTHONPATH"] = str(SCRIPTS)
    command = [sys.executable, "-m", "pytest", "-p", "emulation.plugin", "-p", "no:xdist"]
    command += ["-p", "no:cacheprovider", "-vv", *options]
    files = [str(Path(__file__).with_name(f"test_{name}.py")) for name in HERE]
    done = subprocess.run([*command, *files], cwd=ROOT, env=mine, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_the_processor_decides_what_runs(program: Path, cpu: str) -> None:
    emulated = EmulatedLibrary(build.ARM.command(program, cpu=cpu))
    emulated.close()
    assert [name for name, _ in emulated.variants] == [*ALL, "portable"]
    able = [name for name, (runs, _, _) in emulated.variants if runs]
    assert able == [*PROCESSORS[cpu], "portable"]
    assert [name for name, (_, fast, _) in emulated.variants if fast] == ALL


def test_every_variant_equals_the_reference(program: Path) -> None:
    """All levels, shapes, dtypes and batches that the tests of this folder have."""
    printed = run_tests(program, "-k", "not reference and not portable")
    for variant in ALL:
        for accuracy in ("exact", "fast"):
            passed = [f"[{accuracy}-{variant}-70-2049-{planes}] PASSED" for planes in range(1, 9)]
            assert all(line in printed for line in passed)


@pytest.mark.parametrize("cpu", PROCESSORS)
def test_a_variant_needs_nothing_that_its_processor_lacks(
    program: Path, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instruction that a processor does not know would end the program."""
    emulated = EmulatedLibrary(build.ARM.command(program, cpu=cpu))
    monkeypatch.setattr(library, "load", lambda: emulated)
    variant = next(v for v in selection.variants.__wrapped__() if v.runs)
    assert variant.name == PROCESSORS[cpu][0]
    x = torch.randn(5, 700, generator=torch.Generator().manual_seed(0))
    for planes in range(1, 9):
        matrix = make_coded(33, 700, planes)
        for fast in (False, True):
            out = native.linear(variant, fast, x, matrix.planes, matrix.scale, 33, None)
            error = (out - x @ matrix.dense.T).norm() / (x @ matrix.dense.T).norm()
            assert error < (1e-2 if fast else 1e-5)
        dense = torch.empty(33, 700)
        native.unpack(variant, matrix.planes, matrix.scale, 33, dense)
        assert torch.equal(dense, matrix.dense)
    turned = torch.empty_like(x)
    native.rotate(variant, x, rotation.signs(700, 3), turned)
    torch.testing.assert_close(turned, rotation.rotate(x, 3))
    emulated.close()


def test_instructions_for_a_weight(folder: Path) -> None:
    """At most 1.3 times those of AVX2, whose vectors are twice as long, with dot products."""
    if reason := count_instructions.missing():
        pytest.skip(reason)
    counter = count_instructions.Counter(folder, 2048, "fast")
    lines = count_instructions.measure(counter, [2, 3, 4], [1])
    ratios = {(line.variant, line.planes): line.ratio for line in lines}
    assert {name for name, _ in ratios} == set(count_instructions.VARIANTS)
    assert max(ratios[name, planes] for name in ALL[:2] for planes in (2, 3, 4)) <= 1.3, ratios
