"""A container to the Hub: its files and a model card, in one commit.

Shards are uploaded one by one before the commit, so that a push that breaks goes on with the next
call, and the repository shows everything or, until then, what it showed before. What the card says
is left to `card` and `measured`, downloads to `bitstack.download`.
"""

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    ModelCard,
    get_token,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from tqdm import tqdm

from bitstack.container.budget import Budget
from bitstack.container.manifest import Manifest, read_manifest
from bitstack.container.shards import ShardReader, verify
from bitstack.errors import UserError
from bitstack.hub.card import CARD, MARK, PICTURE, Subject, draw, render
from bitstack.hub.measured import Row, Text, budget_rows
from bitstack.original.hub_cache import LOG_IN, SMALL, hub_errors, is_name

_SHARDS = "model.bitstack-*.safetensors"  # of whatever container the repository holds now
_TOKENIZER = ("tokenizer*", "vocab*")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pushed:
    """What was, or in a dry run would be, uploaded."""

    name: str
    commit: str | None  # None: a dry run
    url: str | None
    files: dict[str, int]  # bytes
    removed: list[str]  # shards of another container that were there
    card: str  # path of README.md
    rows: list[Row]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    budgets: Sequence[str | int | Budget] = (),
    text: Text | None = None,
    base_model: str | None = None,
    license: str | None = None,
    dry_run: bool = False,
    progress: bool = False,
) -> Pushed:
    """Upload the container `folder` as `name` (owner/name), with a model card; returns what went.

    The card is written into the folder; one that is there already and was not made here is kept.
    It lists `budgets` (none: a few from the floor to everything), measured on `text` if one is
    given. `base_model` is the original's name on the Hub (None: the container's own word),
    `license` an identifier of the Hub (None: the base model's). A dry run stops before anything
    is sent. UserError for a broken container, a name the Hub cannot have, no token or one without
    the right, no network, and everything that cannot be measured.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not is_name(name):
        raise UserError(f"{name}: no name for the Hub; give owner/name")
    _check_whole(folder, manifest)
    api = HfApi(library_name="bitstack", library_version=version("bitstack"))
    if not dry_run:
        _create(api, name, private)
        verify(folder, manifest.shards)
    base_model = base_model or _known_base(manifest, text)
    base = {"license": license} if license else _metadata_of(base_model)
    rows, original = budget_rows(folder, manifest, budgets, text, progress=progress)
    _write_card(folder, Subject(name, base_model, base, manifest, rows, original))
    files = _files(folder, manifest)
    sizes = {file: (folder / file).stat().st_size for file in files}
    if dry_run:
        return Pushed(name, None, None, sizes, [], str(folder / CARD), rows)
    commit, removed = _upload(api, folder, name, files, progress)
    url = f"{api.endpoint}/{name}"
    return Pushed(name, commit, url, sizes, removed, str(folder / CARD), rows)


def _check_whole(folder: Path, manifest: Manifest) -> None:
    """UserError for the first shard that is missing or cut short."""
    top = manifest.budgets.levels(manifest.budgets.total_bytes)[0]
    ShardReader(folder).require(manifest.tensors(top), manifest.shards)


def _create(api: HfApi, name: str, private: bool) -> None:
    """The repository is there, and may be written to."""
    if get_token() is None:
        raise UserError(f"{name}: no token for the Hub; {LOG_IN}")
    with hub_errors(f"{name}: cannot be pushed"):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name}: is on the Hub and public; make it private in its settings, or push "
                "without --private"
            )


def _known_base(manifest: Manifest, text: Text | None) -> str | None:
    """The original's name on the Hub: as it was measured, or as it was compressed."""
    original = text.original if text else None
    named = [one for one in (original, manifest.base_model) if one and is_name(one)]
    return next((one for one in named if not Path(one).exists()), None)


def _metadata_of(base_model: str | None) -> dict[str, Any]:
    """What the card of the base model says of itself; empty, with a warning, where it is silent."""
    found: dict[str, Any] = {}
    if base_model is not None:
        try:
            with hub_errors(base_model):
                found = ModelCard.load(base_model, ignore_metadata_errors=True).data.to_dict()
        except UserError as error:
            _log.warning("warning: no model card of the base model: %s", error)
    if not found.get("license"):
        _log.warning("warning: the license of the base model is not known; name it with --license")
    return found


def _write_card(folder: Path, subject: Subject) -> None:
    """README.md and its picture, unless somebody wrote a README.md of their own."""
    path, partial = folder / CARD, folder / f".{CARD}.partial"
    try:
        picture = draw(subject, folder)
        if picture is None:
            (folder / PICTURE).unlink(missing_ok=True)
        if not path.is_file() or MARK in path.read_text(encoding="utf-8", errors="replace"):
            partial.write_text(render(subject, picture=picture is not None), encoding="utf-8")
            partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"{path}: the card cannot be written ({error.strerror}); copy the container to a "
            "folder that can be written to"
        ) from None


def _files(folder: Path, manifest: Manifest) -> list[str]:
    """The container's own files, shards in their order first: nothing else that lies there."""
    patterns = (*SMALL, *_TOKENIZER, CARD, PICTURE)
    small = {
        path.name
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns)
    }
    return [*(shard.file for shard in manifest.shards), *sorted(small)]


def _upload(
    api: HfApi, folder: Path, name: str, files: list[str], progress: bool
) -> tuple[str, list[str]]:
    """The commit, and the shards of an earlier container that it removes."""
    added = [CommitOperationAdd(file, folder / file) for file in files]
    with hub_errors(f"{name}: cannot be pushed"), _bars(progress):
        there = api.list_repo_files(name)
        removed = sorted(file for file in there if fnmatch(file, _SHARDS) and file not in files)
        for each in tqdm(_large(added), desc="upload", disable=None if progress else True):
            api.preupload_lfs_files(name, [each], free_memory=False)
        done = api.create_commit(
            name,
            [*added, *(CommitOperationDelete(file) for file in removed)],
            commit_message="Container of bitstack",
        )
    return str(done.oid), removed


def _large(added: Iterable[CommitOperationAdd]) -> list[CommitOperationAdd]:
    return [each for each in added if each.path_in_repo.endswith(".safetensors")]


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """huggingface_hub draws bars for files only where they are wanted."""
    if (shown and sys.stderr.isatty()) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
