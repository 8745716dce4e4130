"""Every file that transformers knows of a tokenizer goes along, and no other file of a folder."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers

from bitstack.original.file_names import BESIDE, files_beside, matches
from bitstack.original.hub_cache import SMALL

PACKAGE = Path(transformers.__file__).parent
LISTS = re.compile(r"^(?:VOCAB_FILES_NAMES|    vocab_files_names)\b[^={]*=\s*\{([^}]*)\}", re.M)
CONSTANTS = re.compile(
    r"""^(?:[A-Z]+_)*(?:VOCAB|TOKENS|MAP|CONFIG|TOKENIZER)_FILE = "([^"]+)""", re.M
)


def known_to_transformers() -> set[str]:
    """File names in the lists of all its tokenizers, those that need more packages too."""
    names = set()
    for file in PACKAGE.rglob("tokenization*.py"):
        text = file.read_text(encoding="utf-8")
        names |= {
            name for table in LISTS.findall(text) for name in re.findall(r':\s*"([^"]+)"', table)
        }
        names |= set(CONSTANTS.findall(text))
    return names


def test_every_tokenizer_file_of_transformers_goes_along_and_is_downloaded() -> None:
    names = known_to_transformers()
    assert {"vocab.json", "spiece.model", "bpe.codes", "tokenizer_config.json"} <= names
    assert len(names) > 20
    for name in names:
        assert any(matches(name, pattern) for pattern in BESIDE), name
        assert any(fnmatch(name, pattern) for pattern in SMALL), name


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "LICENSE.txt", "license.md", "LICENCE", "NOTICE", "Notice.txt", "USE_POLICY.md",
     "chat_template.jinja", "chat_template.json", "additional_chat_templates/rag.jinja",
     "generation_config.json", "qwen.tiktoken", "tokenizer.4.0.0.json"],
)  # fmt: skip
def test_what_goes_along(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("text")
    assert files_beside(tmp_path) == [name]


@pytest.mark.parametrize(
    "name",
    ["private-notes.txt", "README.md", "report.json", "report.html", "own.py", "events.jsonl",
     "config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer/tokenizer.json",
     "vocab/notes.txt", "LICENSES/MIT.txt", "additional_chat_templates/notes.txt",
     "additional_chat_templates/inner/rag.jinja"],
)  # fmt: skip
def test_what_stays(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("text")
    assert files_beside(tmp_path) == []
