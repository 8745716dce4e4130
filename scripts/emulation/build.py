"""Compiles the sources of the CPU kernels with a program of this folder, for qemu.

Does not run it; see `library` and `count_instructions.py`.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "bitstack/kernels/cpu"
# As setup.py has them, since what is tested should be what is installed.
_FLAGS = ["-O3", "-std=c++17", "-pthread", "-fPIC", "-fvisibility=hidden", "-g0"]
_FLAGS += ["-fno-math-errno", "-fno-trapping-math"]


@dataclass(frozen=True)
class Target:
    """A processor: how to compile for it, and how to run what was compiled."""

    compiler: str
    emulator: str

    def missing(self) -> str | None:
        """Returns why it cannot be used here; None if it can."""
        absent = [name for name in (self.compiler, self.emulator) if shutil.which(name) is None]
        return f"needs {' and '.join(absent)}" if absent else None

    def version(self) -> tuple[int, ...]:
        """Returns the version of the emulator, two numbers."""
        done = subprocess.run([self.emulator, "--version"], capture_output=True, text=True)
        found = re.search(r"version (\d+)\.(\d+)", done.stdout)
        return tuple(map(int, found.groups())) if found else (0, 0)

    def command(
        self, program: Path, arguments: Sequence[str] = (), *, cpu: str = "max", trace: bool = False
    ) -> list[str]:
        """Returns how to run `program` as on the processor that qemu calls `cpu`.

        `trace`: it writes a line that begins with Trace to stderr for every instruction.
        """
        tracing = [_single(self.emulator), "-d", "exec,nochain"] if trace else []
        return [self.emulator, "-cpu", cpu, *tracing, str(program), *arguments]


@cache
def _single(emulator: str) -> str:
    """The option of one instruction at a time, which has another name since qemu 8.1."""
    done = subprocess.run([emulator, "-help"], capture_output=True, text=True)
    return "-one-insn-per-tb" if "-one-insn-per-tb" in done.stdout else "-singlestep"


ARM = Target("aarch64-linux-gnu-g++", "qemu-aarch64")
X86 = Target("x86_64-linux-gnu-g++", "qemu-x86_64")


def build(target: Target, program: str, folder: Path, sources: str = "*") -> Path:
    """Compiles `program`, a source of this folder, with the library's `sources`, a pattern.

    It is static, so that it needs no libraries of the other system. Objects that `folder` has of
    this target are not compiled again.

    Raises:
        RuntimeError: The compiler failed; with its messages.
    """
    folder = folder / target.compiler
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(__file__).parent / program
    everything = [own, *SOURCES.glob(f"{sources}.cpp")]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = list(pool.map(lambda source: _object(target, source, folder), everything))
    executable = folder / own.stem
    _run([target.compiler, "-static", "-pthread", *map(str, made), "-o", str(executable)])
    return executable


def _object(target: Target, source: Path, folder: Path) -> Path:
    made = folder / f"{source.stem}.o"
    if not made.exists():
        _run([target.compiler, *_FLAGS, f"-I{SOURCES}", "-c", str(source), "-o", str(made)])
    return made


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
