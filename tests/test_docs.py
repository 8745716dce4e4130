"""The documents: every path, link, command, option, name and number in them is one that exists."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
import typer
import yaml

import bitstack
import pico
from bitstack import recipes
from bitstack.cli import app
from bitstack.commands import run as run_command
from bitstack.container.entries import DenseEntry, ShardEntry, StackEntry
from bitstack.container.manifest import FORMAT, Manifest
from bitstack.recipe import RENAMED

ROOT = Path(__file__).parents[1]
NAMES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
DOCS = [*NAMES, *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
ROOM_PICTURE = re.compile(r"^((?:bitstack|metrics|recipes)/\S*) {2,}\S", re.MULTILINE)
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"(?<![\w/.-])(?:\./)?((?:bitstack|metrics|recipes|scripts|tests|docs)/[\w./-]*)")
FILE = re.compile(r"`(\w[\w.-]*\.(?:py|toml|md))`")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
ELSEWHERE = {  # options of accelerate, torchrun, pip, lm_eval
    "--multi_gpu", "--nproc-per-node", "--no-deps", "--check", "--model_args", "--batch_size",
}  # fmt: skip

each_document = pytest.mark.parametrize("name", DOCS)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(name: str, language: str) -> list[str]:
    """The fenced code blocks of a document in one language."""
    return [body for kind, body in FENCE.findall(text_of(name)) if kind == language]


def anchors(text: str) -> set[str]:
    """The names a link can give after #, as code hosts make them from headings."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@each_document
def test_links_lead_somewhere(name: str) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text_of(name))):
        file, _, anchor = target.partition("#")
        if file.startswith(("http:", "https:")):
            continue
        path = (ROOT / name).parent / file if file else ROOT / name
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    assert not broken


@each_document
def test_paths_exist(name: str) -> None:
    text = text_of(name)
    paths = [path.rstrip(".") for path in PATH.findall(text)]
    assert [p for p in paths if not (ROOT / p).exists()] == []
    assert [f for f in FILE.findall(text) if not (ROOT / f).exists()] == []


def test_the_rooms_are_drawn_in_their_order() -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("rooms", ROOT / "tests/test_architecture.py")
    assert spec
    assert spec.loader
    architecture = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(architecture)

    def room(path: str) -> str:
        name = path.removesuffix("/").removesuffix(".py").replace("/", ".")
        return name.removeprefix("bitstack.").removesuffix("__init__")

    drawn = [room(path) for path in ROOM_PICTURE.findall(text_of("CONTRIBUTING.md"))]
    assert drawn == architecture.ROOMS


# Commands


@cache
def commands() -> dict[str, Any]:
    """Every command and group by its words after `compress-model`."""

    def walk(group: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        yield " ".join(words), group
        for word, command in getattr(group, "commands", {}).items():
            yield from walk(command, (*words, word))

    return dict(walk(typer.main.get_command(app))) | {"run": run_command.full_command()}


def options(command: Any) -> set[str]:
    return {"--help"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}


def command_of(words: list[str]) -> str:
    """The longest beginning of `words` that is a command."""
    taken = 0
    while taken < len(words) and " ".join(words[: taken + 1]) in commands():
        taken += 1
    return " ".join(words[:taken])


def calls(name: str) -> list[str]:
    """What stands after `compress-model` in code, inline or fenced."""
    text = text_of(name).replace("$(which compress-model)", "compress-model")
    fenced = [line for _, body in FENCE.findall(text) for line in body.splitlines()]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    codes = [code.split("   #")[0] for code in [*fenced, *inline]]
    return [code.split("compress-model ", 1)[1] for code in codes if "compress-model " in code]


@each_document
def test_commands_and_their_options_exist(name: str) -> None:
    for call in calls(name):
        words = re.sub(r"[][]|\.\.\.", " ", call).split()
        command = command_of(words)
        if command or not words[0].startswith("-"):
            assert command or words[0] == "COMMAND", call
        unknown = set(OPTION.findall(call)) - options(commands()[command])
        assert not unknown, call


@each_document
def test_commands_that_are_written_out_parse(name: str) -> None:
    """Without placeholders in brackets: arguments are there, and values are of their kind."""
    for _, body in FENCE.findall(text_of(name)):
        for line in re.findall(r"^compress-model (.*)$", body.replace("\\\n", " "), re.MULTILINE):
            words = shlex.split(line, comments=True)
            command = command_of(words)
            if "[" not in line and "|" not in line and command:
                rest = words[len(command.split()) :]
                try:
                    commands()[command].make_context(command, rest)
                except click.exceptions.UsageError as error:
                    pytest.fail(f"{line}: {error.format_message()}")


@each_document
def test_options_exist(name: str) -> None:
    known = ELSEWHERE | {option for command in commands().values() for option in options(command)}
    for script in [*(ROOT / "scripts").glob("*.py"), *(ROOT / "scripts").glob("*/*.py")]:
        known |= set(re.findall(r'"(--[a-z][\w-]*)"', script.read_text()))
    assert set(OPTION.findall(text_of(name))) - known == set()


# Python


@each_document
def test_python_is_python_and_its_names_are_public(name: str) -> None:
    for body in blocks(name, "python"):
        plain = re.sub(r"^(>>>|\.\.\.) ?", "", body, flags=re.MULTILINE)
        if ">>>" not in body:
            compile(plain, name, "exec")
        used = re.findall(r"\bbitstack\.([a-zA-Z_]+)\(", body)
        assert set(used) <= {*bitstack.__all__}


def test_the_example_of_the_readme_runs(
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a model of a few thousand weights in the place of the demo model."""
    text = text_of("README.md")
    (code,) = blocks("README.md", "python")
    printed = text.split("It prints ")[1].split("```")[1].strip().splitlines()
    (tmp_path / "recipes/text").mkdir(parents=True)
    (tmp_path / "recipes/demo-model").symlink_to(pico_model("llama-tied"))
    (tmp_path / "recipes/text/calibration.txt").write_text(pico.TEXT * 3)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(printed) == 3
    for shown, line in ((printed[0], lines[0]), (printed[-1], lines[-1])):
        form = re.sub(r"\d+(?:\\\.\d+)?", r"\\d+(?:\\.\\d+)?", re.escape(shown))
        assert re.fullmatch(form, line)
    assert (ROOT / "recipes/demo-model").resolve() == recipes.demo_model().resolve()


def test_every_family_of_the_tests_is_named() -> None:
    readme = text_of("README.md").lower().replace("-", " ")
    for family in pico.FAMILIES:
        name = re.sub(r"-(tied|untied|gqa|outliers)$", "", family).replace("-", " ")
        assert name in readme


# The format


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """The functions of the page: `read` and `weight`."""
    names: dict[str, Any] = {}
    exec(blocks("docs/format.md", "python")[-1], names)
    return names


@pytest.mark.parametrize(
    ("family", "fields"),
    [
        ("llama-gqa", {"blocks": 6}),
        ("gpt-2", {"blocks": 6, "chains": (1, 2, 4)}),
        (pico.OUTLIERS, {"blocks": 2}),
        ("mixtral", {"blocks": 3}),
        ("llama-tied", {"blocks": 3, "method": "signs", "rank": 3, "column_scaling": False}),
    ],
)
def test_the_reader_of_the_page_reads_what_bitstack_reads(
    reader: dict[str, Any], stacked: Callable[..., Path], family: str, fields: dict[str, Any]
) -> None:
    folder = stacked(family, **fields)
    manifest, tensors = reader["read"](folder)
    assert manifest["format"] == FORMAT
    for level in range(1, fields["blocks"] + 1):
        model = bitstack.load(folder, level=level)
        for stack, live in zip(manifest["stacks"], model.bitstack.stacks, strict=True):
            ours = torch.from_numpy(reader["weight"](tensors, stack, level))
            products = stack["format"] == "signs" or stack["rotation"]
            exact = 1e-5 if products else 0  # matrix products round in any order
            torch.testing.assert_close(ours, live.dequantize().float(), rtol=exact, atol=exact)
    for entry in manifest["dense"]:
        if entry["persistent"]:
            assert list(tensors[entry["name"]].shape) == entry["shape"]
    assert tensors[manifest["stacks"][0]["parameter"]].shape == (0,)


@pytest.mark.parametrize("model", [Manifest, StackEntry, DenseEntry, ShardEntry])
def test_every_field_of_the_manifest_is_described(model: Any) -> None:
    text = text_of("docs/format.md")
    assert f"now {FORMAT} " in text
    assert [field for field in model.model_fields if f"`{field}`" not in text] == []


# Numbers and names that stand elsewhere too


def kept_rows(model: str) -> list[dict[str, Any]]:
    lines = text_of(f"scripts/quality/rows-{model}.jsonl").splitlines()
    return [json.loads(line)["row"] for line in lines]


def against_ours(rows: list[dict[str, Any]]) -> dict[int, set[tuple[str, str]]]:
    """(its increase, that of recipe default) at the bytes of every kept point of a peer."""
    original = next(r["nll_per_token"] for r in rows if r["method"] == "original")
    ours = sorted(
        (r["resident_bytes"], r["nll_per_token"] - original)
        for r in rows
        if (r["method"], r["view"]) == ("bitstack default", "whole")
    )
    sizes, increases = np.array(ours).T
    points: dict[int, set[tuple[str, str]]] = {}
    for row in rows:
        size, increase = row["resident_bytes"], row["nll_per_token"] - original
        near = float(np.exp(np.interp(size, sizes, np.log(increases.clip(1e-5)))))
        points.setdefault(size, set()).add((f"{increase:.4f}", f"{near:.4f}"))
    return points


@pytest.mark.parametrize("name", ["README.md", "docs/comparison.md"])
def test_the_tables_hold_what_was_measured(name: str) -> None:
    known = [against_ours(kept_rows(model)) for model in ("babyllama105", "classics-5m")]
    table = re.findall(
        r"^\|[^|]+\| ([\d,]+) \| (\d\.\d{4}) \| (\d\.\d{4}) \|$", text_of(name), re.M
    )
    assert len(table) >= 12
    for size, theirs, ours in table:
        bytes_ = int(size.replace(",", ""))
        assert any((theirs, ours) in points.get(bytes_, ()) for points in known), (size, theirs)


def test_old_names_are_those_that_are_read() -> None:
    rows = re.findall(r"^ *\| `(\w+)` \| `(\w+)` \|$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert dict(rows) == RENAMED


def test_hooks_and_workflow_use_the_versions_of_the_project() -> None:
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", text_of("constraints.txt"), re.MULTILINE))
    assert hooks["repos"][0]["rev"] == f"v{pinned['ruff']}"
    steps = yaml.safe_load(text_of(".github/workflows/test.yml"))["jobs"]["test"]["steps"]
    install, test = [step["run"] for step in steps if "run" in step]
    assert test == "./scripts/test"
    assert re.fullmatch(r"sudo apt-get update && sudo apt-get install .*\bqemu-user", install)
    yaml.safe_load(text_of(".github/ISSUE_TEMPLATE/bug_report.yml"))
