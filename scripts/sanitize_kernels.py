"""Runs the C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, on random calls.

    python scripts/sanitize_kernels.py [--seconds 30] [--seed 0] [--json FILE]

It builds the library of `bitstack/kernels/cpu` a second time, with both sanitizers and without
recovery, and calls it through `bitstack.kernels` in a process of its own: every variant that this
machine runs, random shapes (odd widths, one row, no tokens), 1 to 8 planes, three dtypes,
activations and tables with infinities and NaN, rotations, outliers, ids, 1 to 3 threads. Finite
results are compared with the reference. A finding ends the run with its report and exit code 1.
Needs g++ with its sanitizers, on Linux.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "bitstack/kernels/cpu"
_CHECKED = "address,undefined,float-cast-overflow"
_FLAGS = ["-O1", "-g1", "-std=c++17", "-fPIC", "-pthread", "-fvisibility=hidden", "-w"]
_SANITIZE = [f"-fsanitize={_CHECKED}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def missing() -> str | None:
    """Returns why it cannot run here; None if it can."""
    if not sys.platform.startswith("linux") or shutil.which("g++") is None:
        return "needs Linux and g++"
    return None if Path(_runtime()).is_absolute() else "g++ has no libasan"


def _runtime() -> str:
    command = ["g++", "-print-file-name=libasan.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def build(folder: Path) -> Path:
    """Compiles all sources with the sanitizers; returns the library.

    Sources of variants that this machine cannot run are compiled without, which is much quicker.
    """
    from bitstack.kernels import selection

    idle = {variant.name.replace("-", "_") for variant in selection.variants() if not variant.runs}

    def compile_one(source: Path) -> str:
        made = folder / f"{source.stem}.o"
        extra = [] if source.stem in idle else _SANITIZE
        command = ["g++", *_FLAGS, *extra, "-c", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        return str(made)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compile_one, sorted(SOURCES.glob("*.cpp"))))
    library = folder / "_cpu_sanitized.so"
    command = ["g++", "-shared", "-pthread", *_SANITIZE, *objects, "-o", str(library)]
    subprocess.run(command, check=True)
    return library


def drive(path: Path, seconds: float, seed: int) -> Counter[str]:
    """Calls the library at `path` at random; returns how often each kind of call was right."""
    import torch

    from bitstack.kernels import library

    made = library.declare(ctypes.CDLL(str(path)))
    library.load = lambda: made  # type: ignore[assignment]
    from random_calls import calls

    torch.manual_seed(seed)
    right: Counter[str] = Counter()
    until = time.monotonic() + seconds
    for name, call in calls(seed):
        call()
        right[name] += 1
        if time.monotonic() > until:
            break
    return right


def run(seconds: float, seed: int) -> tuple[int, str]:
    """Builds and drives in a process of its own; returns its exit code and what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        library = build(Path(folder))
        command = [sys.executable, __file__, "--drive", str(library)]
        command += ["--seconds", str(seconds), "--seed", str(seed)]
        environment = os.environ | {
            "LD_PRELOAD": _runtime(),
            # Python and torch keep memory to the end; several libraries bring one symbol.
            "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0:abort_on_error=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=30, help="of random calls")
    parser.add_argument("--seed", type=int, default=0, help="of the random calls")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        print(json.dumps(drive(options.drive, options.seconds, options.seed)))
        return 0
    if reason := missing():
        print(f"cannot run here: {reason}")
        return 2
    code, text = run(options.seconds, options.seed)
    if code:
        print(f"{text}\nthe sanitizers, or a comparison, found the above")
        return 1
    counts = json.loads(text.strip().splitlines()[-1])
    for name, count in sorted(counts.items()):
        print(f"{name:<40} {count:>8}")
    print(f"{'all calls':<40} {sum(counts.values()):>8}, no finding of {_CHECKED}")
    if options.json:
        options.json.write_text(json.dumps({"seed": options.seed, "calls": counts}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
