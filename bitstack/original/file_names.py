"""Names the files of a model folder that go along with its weights: tokenizer, templates, licence.

Does not read or copy them; see `original.side_files`.
"""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

CHAT_TEMPLATE_DIR = "additional_chat_templates"  # as in transformers

# Names under which any tokenizer of transformers keeps its files.
TOKENIZER = (
    "tokenizer*", "vocab*", "special_tokens_map.json", "added_tokens.json", "merges.txt", "*.model",
    "*.spm", "*.tiktoken", "*.tokenizer", "tekken.json", "bpe.codes", "dict.txt", "normalizer.json",
    "byte_maps.json", "emoji.json", "entity_vocab.json", "target_vocab.json",
    "word_pronunciation.json", "word_shape.json",
)  # fmt: skip
TEMPLATES = f"{CHAT_TEMPLATE_DIR}/*.jinja"
LEGAL = ("LICEN[CS]E*", "NOTICE*", "COPYING*", "USE_POLICY*")  # in any case of letters
BESIDE = ("generation_config.json", "chat_template*", TEMPLATES, *TOKENIZER, *LEGAL)


def files_beside(folder: Path, patterns: Iterable[str] = BESIDE) -> list[str]:
    """Returns the names of the files in a folder that match, sorted; templates as `folder/name`.

    Folders are none of them, whatever they are called.
    """
    held = [*folder.glob("*"), *(folder / CHAT_TEMPLATE_DIR).glob("*")]
    names = (path.relative_to(folder).as_posix() for path in held if path.is_file())
    return sorted(name for name in names if any(matches(name, pattern) for pattern in patterns))


def matches(name: str, pattern: str) -> bool:
    """Tells whether a file of a model folder is one that `pattern` means."""
    if pattern in LEGAL:
        name = name.upper()
    return name.count("/") == pattern.count("/") and fnmatch(name, pattern)
