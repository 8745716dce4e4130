"""Looks at the files beside the tensors: config, generation settings, tokenizer, recipe.

Their checksums are in the manifest. Who changes one on purpose deletes its line there. Does not
make anything of them; see `container.skeleton_of` and `original.source`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bitstack.container import checksums
from bitstack.container.manifest import MANIFEST, Manifest
from bitstack.errors import UserError
from bitstack.machine.json_file import parse_json, read_bytes, reason_of
from bitstack.machine.plain_files import plain_file
from bitstack.original.file_names import TEMPLATES, TOKENIZER, files_beside, matches
from bitstack.original.hub_cache import SMALL

CONFIG, GENERATION, RECIPE = "config.json", "generation_config.json", "recipe.yaml"
_MOST_BYTES = 256 << 20  # of one such file
_MOST_CONFIG_BYTES = 16 << 20


def sums_of(folder: Path) -> dict[str, str]:
    """Returns the checksums of the files beside the tensors, by name, for a new manifest."""
    names = [name for name in (CONFIG, RECIPE) if (folder / name).is_file()]
    return {name: _sum(folder / name) for name in sorted({*names, *files_beside(folder)})}


def check_plain(folder: Path) -> None:
    """Checks that all files that transformers may open are regular files of this folder.

    Raises:
        UserError: One is a pipe, say, or a link that leads elsewhere.
    """
    held = [path for path in folder.iterdir() if path.is_symlink() or not path.is_dir()]
    held += folder.glob(TEMPLATES)
    for path in held:
        name = path.relative_to(folder).as_posix()
        if any(matches(name, pattern) for pattern in (*SMALL, TEMPLATES)):
            plain_file(folder, name)


def check_sums(folder: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Compares the checksums of files with those of the manifest; unlisted files have none.

    Args:
        names: Which files; None for all that are listed.

    Raises:
        UserError: One is missing or was changed; the message names the first.
    """
    for name in manifest.files if names is None else names:
        if name in manifest.files and (fault := fault_of(folder, manifest, name)):
            raise UserError(f"{folder / name}: {fault}")


def tokenizer_files(manifest: Manifest) -> list[str]:
    """Returns the names of the listed files that a tokenizer reads."""
    patterns = (*TOKENIZER, "chat_template*", TEMPLATES)
    return [n for n in manifest.files if any(matches(n, pattern) for pattern in patterns)]


def fault_of(folder: Path, manifest: Manifest, name: str) -> str | None:
    """Returns what is wrong with a listed file, None where nothing is."""
    path = plain_file(folder, name)
    if not path.exists():
        return "missing, but the manifest lists it; copy it again"
    try:
        same = _sum(path) == manifest.files[name]
    except (OSError, ValueError) as error:
        return f"cannot be read ({reason_of(error)}); copy it again"
    if same:
        return None
    return (
        "is not what was written: its checksum is another; copy it again or, if it was changed on "
        f'purpose, delete its line under "files" in {MANIFEST}'
    )


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Returns the content of a JSON file of settings.

    Raises:
        UserError: It is missing, damaged, too large, or holds no object.
    """
    try:
        data = parse_json(read_bytes(plain_file(folder, name), _MOST_CONFIG_BYTES))
        if not isinstance(data, dict):
            raise ValueError("no object")
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: {name} cannot be read: {reason_of(error)}; copy it again"
        ) from None
    return data


def _sum(path: Path) -> str:
    return checksums.of_bytes(read_bytes(path, _MOST_BYTES))
