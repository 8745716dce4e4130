"""The names of `import bitstack`: typed, documented, and with examples that run as they stand."""

import ast
import doctest
import importlib.metadata
import inspect
import re
import shutil
import subprocess
import sys
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedModel

import bitstack
import pico

ROOT = Path(__file__).parents[1]
CALLABLES = [name for name in bitstack.__all__ if callable(getattr(bitstack, name))]
FUNCTIONS = [name for name in CALLABLES if inspect.isfunction(getattr(bitstack, name))]


def section(name: str, title: str) -> str:
    """The text of one section of a docstring, such as `Args`."""
    text = inspect.getdoc(getattr(bitstack, name)) or ""
    match = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
    return match[1] if match else ""


def type_checking_imports() -> dict[str, str]:
    """Name -> module, of the imports that type checkers read."""
    tree = ast.parse(Path(bitstack.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert isinstance(block.test, ast.Name)
    assert block.test.id == "TYPE_CHECKING"
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_every_name_is_there() -> None:
    assert sorted(bitstack.__all__) == bitstack.__all__ == dir(bitstack)
    for name in bitstack.__all__:
        assert getattr(bitstack, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        bitstack.lod  # noqa: B018
    with pytest.raises(ImportError):
        exec("from bitstack import lod")


def test_the_version_is_that_of_the_package() -> None:
    assert importlib.metadata.version("bitstack") == bitstack.__version__


def test_type_checkers_see_what_runs() -> None:
    imports = type_checking_imports()
    assert imports == {n: f"bitstack.{module}" for n, module in bitstack._MODULES.items()}
    assert {*imports, "__version__"} == set(bitstack.__all__)
    assert (ROOT / "bitstack/py.typed").is_file()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "py.typed" in data["package-data"]["bitstack"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_complete(name: str) -> None:
    function = getattr(bitstack, name)
    hints = typing.get_type_hints(function)
    assert "return" in hints
    for parameter in inspect.signature(function).parameters.values():
        assert parameter.name in hints
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            assert hints[parameter.name] is not Any


def test_a_loaded_model_is_one_of_transformers() -> None:
    assert typing.get_type_hints(bitstack.load)["return"] is PreTrainedModel


@pytest.mark.parametrize("name", CALLABLES)
def test_docstrings(name: str) -> None:
    """A summary in one line; every parameter, what is returned and what is raised; an example."""
    summary, _, _ = (inspect.getdoc(getattr(bitstack, name)) or "").partition("\n")
    assert summary.endswith(".")
    assert f"bitstack.{name}" in section(name, "Example")
    if name not in FUNCTIONS:
        return
    signature = inspect.signature(getattr(bitstack, name))
    described = re.findall(r"^    (\w+): \S", section(name, "Args"), re.MULTILINE)
    assert described == list(signature.parameters)
    assert section(name, "Returns").strip()
    assert section(name, "Raises").strip().startswith("UserError: ")


@pytest.fixture
def folder(
    stacked: Callable[..., Path],
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A working directory with the model, container and text that the examples name."""
    (tmp_path / "my-model").symlink_to(pico_model("llama-gqa"))
    shutil.copytree(stacked("llama-gqa", calibration="none"), tmp_path / "my-container")
    (tmp_path / "text.txt").write_text(pico.TEXT * 3)
    monkeypatch.chdir(tmp_path)
    before = bitstack.set_accuracy("fast")
    yield tmp_path
    bitstack.set_accuracy(before)


@pytest.mark.parametrize("name", CALLABLES)
def test_examples_run(name: str, folder: Path) -> None:
    text = inspect.getdoc(getattr(bitstack, name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, None)
    assert example.examples
    lines: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    runner.run(example, out=lines.append)
    assert runner.failures == 0, "".join(lines)


USER = """
import bitstack

reveal_type(bitstack.compress("model", "container", recipe="fast", blocks=4))
reveal_type(bitstack.plan("container", ["50%", 10**9]))
reveal_type(bitstack.load_recipe("fast").blocks)
reveal_type(bitstack.export("container", "dense", 10**9))
reveal_type(bitstack.set_accuracy("exact"))
reveal_type(bitstack.evaluate("container", "text.txt").bits_per_byte)
reveal_type(bitstack.push("container", "a/b", text="text.txt").files)
reveal_type(bitstack.__version__)
bitstack.resize(bitstack.load("container"), budget=["no"])
bitstack.lod("container")
"""
SEEN = [
    "Path", "PlanRow", "int", "Path", "str", "float", "dict[", "str",
    'Argument "budget" to "resize" has incompatible type', 'has no attribute "lod"',
]  # fmt: skip


def test_mypy_sees_the_types_in_a_users_file(tmp_path: Path) -> None:
    """Of the package as it is installed. Torch and transformers are left out, to be quick."""
    site = tmp_path / "site"
    (site / "bitstack").mkdir(parents=True)
    for file in (ROOT / "bitstack").iterdir():
        (site / "bitstack" / file.name).symlink_to(file)
    for name in ("metrics", "recipes"):
        (site / "bitstack" / name).symlink_to(ROOT / name)
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [
            sys.executable, "-m", "mypy", "--config-file=", "--no-site-packages",
            "--ignore-missing-imports", "--follow-imports=silent", "--cache-dir=/dev/null",
            "--no-color-output", "--no-error-summary", "user.py",
        ],
        cwd=tmp_path, env={"MYPYPATH": str(site)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == len(SEEN), done.stdout + done.stderr
    for line, part in zip(lines, SEEN, strict=True):
        assert part in line


def test_fields_change_a_recipe_that_is_an_object() -> None:
    """Not only one that is named or read from a file."""
    recipe = bitstack.Recipe(name="mine", blocks=4, overrides={"*.down_proj": {"blocks": 2}})
    assert bitstack.load_recipe(recipe) == recipe
    changed = bitstack.load_recipe(recipe, seed=3, calibration=None)
    assert changed == recipe.model_copy(update={"seed": 3})
    with pytest.raises(bitstack.UserError, match="recipe mine: blocks: 99"):
        bitstack.load_recipe(recipe, blocks=99)
