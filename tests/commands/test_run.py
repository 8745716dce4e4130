"""`run` as it is typed: what it logs, what it writes beside the blocks, and that it repeats."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from bitstack.cli import app
from bitstack.container.making import MADE
from bitstack.container.manifest import read_manifest

NAME = "llama-gqa"
FEW = [
    "--num-samples", "4", "--seq-len", "32", "--order-samples", "1", "--search-sweeps", "0",
    "--joint-passes", "1", "--tune-steps", "0",
]  # fmt: skip
LINE = re.compile(r"(\S+): (\d+) x (\d+), (\d+) blocks, relative error (\S+), (\d+\.\d) s")


def run(*args: object) -> Result:
    done = CliRunner().invoke(app, ["run", *(str(arg) for arg in args)])
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def arguments(pico_model: Callable[..., Path], text_file: Path) -> list[object]:
    return [pico_model(NAME), "--calibration", text_file, *FEW]


def test_verbose_tells_every_matrix(arguments: list[object], tmp_path: Path) -> None:
    overrides = '{"*.down_proj": {blocks: 3}}'
    options = [*arguments, "--blocks", 2, "--overrides", overrides]
    finished = run(*options, "--output", tmp_path / "c", "--verbose")
    printed = {m[1]: m.groups()[1:] for m in map(LINE.fullmatch, finished.stderr.splitlines()) if m}
    stacks = read_manifest(tmp_path / "c").stacks
    assert sorted(printed) == sorted(entry.name for entry in stacks)
    for entry in stacks:
        rows, columns, blocks, error, _ = printed[entry.name]
        assert (int(rows), int(columns)) == (entry.rows, entry.columns)
        assert int(blocks) == entry.levels == (3 if "down_proj" in entry.name else 2)
        assert float(error) == pytest.approx(entry.errors[-1], rel=0.01)
    assert "relative error" not in run(*options, "--output", tmp_path / "d").stderr


def test_shard_size(arguments: list[object], tmp_path: Path) -> None:
    for size in ("2kB", "1MB"):
        run(*arguments, "--blocks", 2, "--output", tmp_path / size, "--shard-size", size)
    small, large = (read_manifest(tmp_path / size) for size in ("2kB", "1MB"))
    assert (small.recipe["shard_size"], large.recipe["shard_size"]) == (2000, 1_000_000)
    assert len(large.shards) == 2  # the floor, and the rest
    assert len(small.shards) > 5
    for shard in small.shards:
        tensors = load_file(tmp_path / "2kB" / shard.file).values()
        assert len(tensors) == 1 or sum(tensor.nbytes for tensor in tensors) <= 2000


def test_a_containers_recipe_repeats_it(
    arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        "blocks: 2\nseed: 3\noverrides:\n  '*.down_proj': {blocks: 1}\n  '*.o_proj': {dense: true}"
    )
    run(*arguments, "--recipe", mine, "--seed", 5, "--output", tmp_path / "one")
    resolved = read_manifest(tmp_path / "one").recipe
    from_file_flag_default = {"blocks": 2, "seed": 5, "refit_rounds": 2}
    assert resolved | from_file_flag_default == resolved
    monkeypatch.chdir(text_file.parent)  # the recipe names the text without its folder
    written = tmp_path / "one" / "recipe.yaml"
    run(arguments[0], "--recipe", written, "--output", tmp_path / "two")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert sorted(file.name for file in (tmp_path / "two").iterdir()) == names
    names.remove(MADE)  # how long the run took
    for name in names:
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    run(arguments[0], "--recipe", written, "--blocks", 1, "--output", tmp_path / "three")
    assert read_manifest(tmp_path / "three").recipe == resolved | {"blocks": 1}
