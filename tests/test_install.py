"""The build of the compiled kernels, which must never keep an install from going on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="not run from the sources")
def test_without_a_compiler_the_build_goes_on(tmp_path: Path) -> None:
    """And makes nothing; that `which()` then says so is tested with the kernels."""
    built, objects = tmp_path / "built", tmp_path / "objects"
    nothing = {"CC": "no-such-compiler", "CXX": "no-such-compiler", "LDSHARED": "no-such-compiler"}
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", built, "-t", objects],
        cwd=ROOT, env=os.environ | nothing, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no-such-compiler" in done.stderr + done.stdout
    assert not list(tmp_path.rglob("_cpu*"))
