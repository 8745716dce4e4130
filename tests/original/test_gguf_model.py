"""A GGUF is what `from_pretrained(gguf_file=)` makes of it, with tokenizer; or it is refused."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig
from typer.testing import CliRunner

import bitstack
import pico
from bitstack.cli import app
from bitstack.compression.fingerprint import fingerprint
from bitstack.container.manifest import read_manifest
from bitstack.errors import UserError
from bitstack.live.opening import open_model
from bitstack.original import gguf_model
from bitstack.original.hub_cache import locate
from bitstack.original.source import load_tokenizer, open_source
from bitstack.recipe import load_recipe
from hub_server import HubServer

gguf = pytest.importorskip("gguf")
import gguf_file  # noqa: E402 - imports gguf

IDS = torch.arange(1, 20)[None]
Kind = gguf.GGMLQuantizationType
QUICK: dict[str, Any] = {"recipe": "fast", "calibration": "none", "blocks": 8}
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`make(kind, name=, tied=, without=)`: a GGUF whose rows fit into blocks of 32."""

    def write(kind: Any, *, tied: bool = True, without: str | None = None) -> Path:
        sizes = {"hidden_size": 64, "intermediate_size": 96, "num_key_value_heads": 2}
        config = LlamaConfig(**pico.SIZES | sizes, tie_word_embeddings=tied)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = AutoModelForCausalLM.from_config(config)
        folder = tmp_path_factory.mktemp("gguf")
        return gguf_file.write(model, folder / f"pico.{kind.name}.gguf", kind, without=without)

    return write


def reference(file: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, quantization_config=GgufConfig(dequantize=True)
    )


KINDS = [Kind.F32, Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_0, Kind.Q4_1, Kind.Q4_0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_weights_are_those_of_from_pretrained(make: Make, kind: Any, tied: bool) -> None:
    source = open_source(file := make(kind, tied=tied))
    plain = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}
    assert source.dtype == plain.get(kind, torch.float32)
    source.load([name for name, _ in source.model.named_parameters()])
    expected = dict(reference(file).named_parameters())
    assert dict(source.model.named_parameters()).keys() == expected.keys()
    for name, value in source.model.named_parameters():
        assert torch.equal(value, expected[name].float()), name
    low = [line for line in source.remarks if "the loss of its own quantisation stays" in line]
    assert bool(low) == (kind in (Kind.Q5_0, Kind.Q4_1, Kind.Q4_0))


def test_a_container_of_a_gguf(make: Make, tmp_path: Path) -> None:
    file = make(Kind.Q8_0)
    container = bitstack.compress(file, tmp_path / "c", **QUICK)
    model, expected = bitstack.load(container), reference(file)
    with torch.no_grad():
        wanted = expected(IDS).logits
        assert (model(IDS).logits - wanted).norm() < 0.05 * wanted.norm()
    tokenizer = load_tokenizer(container)
    assert tokenizer(pico.TEXT)["input_ids"] == pico.tokenizer()(pico.TEXT)["input_ids"]
    assert tokenizer.chat_template == gguf_file.TEMPLATE
    assert read_manifest(container).base_model == "pico.Q8_0"


def test_what_run_prints(make: Make, tmp_path: Path) -> None:
    file = make(Kind.Q4_0)
    options = ["--recipe", "fast", "--calibration", "none", "--blocks", "1"]
    for model in ([str(file)], [str(file.parent), "--gguf-file", file.name]):
        command = ["run", *model, "--output", str(tmp_path / model[-1].replace("/", "_")), *options]
        result = subprocess.run(
            [sys.executable, "-m", "bitstack.cli", *command], capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        assert "a GGUF of 4.5 bits per weight: the loss of its own quant" in result.stderr
        assert "Converting" not in result.stderr
    result = CliRunner().invoke(
        app, ["run", str(file), "--output", str(tmp_path / "d"), "--dry-run"]
    )
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "d").exists()


def test_an_original_gguf_is_opened_and_does_not_fill_the_disk(make: Make, tmp_path: Path) -> None:
    file = make(Kind.Q8_0)
    opened = open_model(file)
    with torch.no_grad():
        assert torch.equal(opened.model(IDS).logits, reference(file)(IDS).logits)
    made = gguf_model.open_gguf(file)[0]
    assert made == gguf_model.open_gguf(file)[0]  # once in a process
    code = (
        "import sys; from pathlib import Path; from bitstack.original.gguf_model import open_gguf; "
        "print(open_gguf(Path(sys.argv[1]))[0])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert not Path(result.stdout.strip()).exists()


def test_a_gguf_on_the_hub(hub: HubServer, make: Make, tmp_path: Path) -> None:
    file = make(Kind.Q8_0)
    (file.parent / "other.gguf").write_bytes(b"not read")
    hub.add("someone/pico-GGUF", file.parent)
    container = bitstack.compress("someone/pico-GGUF", tmp_path / "c", gguf_file=file.name, **QUICK)
    assert read_manifest(container).base_model == "someone/pico-GGUF"
    assert hub.fetched().count(file.name) == 1
    assert "other.gguf" not in hub.fetched()
    for named in (None, "gone.gguf"):
        with pytest.raises(UserError, match=rf"--gguf-file: other\.gguf, {file.name}"):
            open_source(locate("someone/pico-GGUF", gguf_file=named))


def test_the_file_itself_is_the_fingerprint(make: Make) -> None:
    files = open_source(file := make(Kind.Q8_0)).identity
    assert files == [file]
    assert fingerprint(files, load_recipe(), None)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"GGUF", "a.gguf", "cannot be read as GGUF"),
        (b"", "a.gguf", "cannot be read as GGUF"),
        (b"\0" * 4096, "a.gguf", "cannot be read as GGUF"),
        (b"", "a-00001-of-00002.gguf", r"one of several parts; join them first"),
        (None, "gone.gguf", r"holds no file gone\.gguf; it has no GGUF"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, content: bytes | None, name: str, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        open_source(tmp_path / name)
    assert "\n" not in str(error.value)


def test_what_transformers_cannot_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would fill in random weights, or end in an error of its own."""
    file = make(Kind.F32, without="blk.1.ffn_up.weight")
    with pytest.raises(
        UserError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight in"
    ):
        open_source(file)
    unknown = make(Kind.F32)
    unknown.write_bytes(unknown.read_bytes().replace(b"llama", b"lamal"))
    with pytest.raises(UserError, match=r"transformers cannot read this GGUF: .*lamal"):
        open_source(unknown)


def test_a_folder_of_ggufs_alone_asks_for_one(make: Make) -> None:
    file = make(Kind.F32)
    with pytest.raises(UserError, match=rf"holds no config\.json, but GGUFs; .*: {file.name}"):
        open_source(file.parent)


def test_without_the_package(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(Kind.F32)
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match=r"gguf is not installed; .*extra 'gguf'"):
        open_source(file)


def test_too_little_disk_or_memory(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make(Kind.F32)
    monkeypatch.setattr(gguf_model, "memory_room", lambda: 1000)
    with pytest.raises(UserError, match="of memory are needed for its dequantised weights"):
        open_source(file)
    monkeypatch.setattr(gguf_model.shutil, "disk_usage", lambda _: type("U", (), {"free": 5}))
    with pytest.raises(UserError, match=r"of disk are needed in .* variable TMPDIR"):
        open_source(file)
