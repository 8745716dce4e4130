"""Uploads a container to the Hub: its files and a model card, in one commit.

Shards are uploaded one by one before the commit, so that a push that breaks goes on with the next
call, and the repository shows what it showed before until everything is there. Does not write the
card, see `hub.card`, and does not measure, see `hub.measured`.
"""

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
    get_token,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

from bitstack.container.budget import Budget
from bitstack.container.making import MADE, read_making
from bitstack.container.manifest import INDEX, MANIFEST, Manifest, read_manifest
from bitstack.container.reading import BlockReader
from bitstack.container.small_files import RECIPE
from bitstack.container.verification import check_files
from bitstack.errors import UserError
from bitstack.hub.base_model import known_base, metadata_of
from bitstack.hub.card import CARD, MARK, PICTURE, Subject, draw, render
from bitstack.hub.from_report import rows_of_report
from bitstack.hub.measured import EVALUATIONS, Row, Text, budget_rows, download_bytes
from bitstack.hub.memories import Choice, choices
from bitstack.live.chat_template import chat_text
from bitstack.machine.extras import require
from bitstack.machine.progress import bar
from bitstack.original.file_names import files_beside
from bitstack.original.hub_cache import LOG_IN, check_name, hub_errors
from bitstack.original.source import load_tokenizer

_SHARDS = "model.bitstack-*.safetensors"  # of any container in the repository
_OWN = ("config.json", MANIFEST, INDEX, RECIPE, MADE, EVALUATIONS, CARD, PICTURE)


@dataclass(frozen=True)
class Pushed:
    """What was uploaded or, in a dry run, would be."""

    name: str  # owner/name
    commit: str | None  # None: a dry run
    url: str | None  # None: a dry run
    files: dict[str, int]  # name -> bytes
    removed: list[str]  # shards of another container that were in the repository
    card: str  # path of README.md
    rows: list[Row]  # of the card's table

    def to_json(self) -> dict[str, Any]:
        """Returns all fields."""
        return asdict(self)


def push(
    folder: str | Path,
    name: str,
    *,
    private: bool = False,
    budgets: Sequence[str | int | Budget] = (),
    text: str | Path | Text | None = None,
    report: str | Path | None = None,
    base_model: str | None = None,
    license: str | None = None,
    dry_run: bool = False,
    progress: bool = False,
) -> Pushed:
    """Uploads a container to the Hub with a model card, in one commit.

    The card (README.md) is written into the folder; a README.md that somebody else wrote is kept.
    A push that breaks goes on when it is called again. Log in first with `hf auth login`.

    Args:
        folder: Folder of a container.
        name: Where to, as `owner/name`. The repository is made if it is not there.
        private: Make it private.
        budgets: Budgets of the card's table, as in `bitstack.load`; none for a few from the
            smallest model to the whole one.
        text: Measure every budget on this text: a text file, a folder of text files, FILE.jsonl or
            hf:DATASET[:CONFIG][:COLUMN]. A `bitstack.hub.measured.Text` also sets the window, the
            number of tokens, and an original model to compare with. None measures nothing.
        report: Take budgets, loss and task scores from the .json that `compress-model report` wrote
            of this container, instead of `budgets` and `text`.
        base_model: The original's name on the Hub; None for the name it was compressed under.
        license: Identifier of a license on the Hub; None for that of the base model.
        dry_run: Write the card, but send nothing.
        progress: Show progress bars.

    Returns:
        Name, commit, files with their bytes, and the rows of the card's table.

    Raises:
        UserError: The container is damaged, the name is not `owner/name`, there is no token or one
            without the right to write, the Hub cannot be reached, or a budget cannot be measured.

    Example:
        >>> import bitstack
        >>> pushed = bitstack.push(
        ...     "my-container", "my-name/my-container", license="apache-2.0", dry_run=True
        ... )
        >>> "README.md" in pushed.files
        True
    """
    folder = Path(folder)
    if isinstance(text, str | Path):
        text = Text(str(text))
    manifest = read_manifest(folder)
    if report is not None and (text is not None or budgets):
        raise UserError("--report: has its own budgets and text; leave --text and --budget out")
    if text is not None or report is not None:
        require("matplotlib")  # for the picture; said before the repository is made
    check_name(name)
    _check_whole(folder, manifest)
    api = HfApi(library_name="bitstack", library_version=version("bitstack"))
    if not dry_run:
        _create(api, name, private)
        check_files(folder, manifest)
    base_model = base_model or known_base(manifest, text)
    base = {"license": license} if license else metadata_of(base_model)
    if report is not None:
        rows, original = rows_of_report(folder, manifest, report)
    else:
        rows, original = budget_rows(folder, manifest, budgets, text, progress=progress)
    subject = Subject(
        name, base_model, base, manifest, rows, original, _choices(folder, manifest),
        _message(folder), read_making(folder),
    )  # fmt: skip
    _write_card(folder, subject)
    files = _files(folder, manifest)
    sizes = {file: (folder / file).stat().st_size for file in files}
    if dry_run:
        return Pushed(name, None, None, sizes, [], str(folder / CARD), rows)
    commit, removed = _upload(api, folder, name, files, progress)
    url = f"{api.endpoint}/{name}"
    return Pushed(name, commit, url, sizes, removed, str(folder / CARD), rows)


def _check_whole(folder: Path, manifest: Manifest) -> None:
    """Raises UserError for the first shard that is missing or cut short."""
    top = manifest.budgets.levels(manifest.budgets.total_bytes)[0]
    BlockReader(folder, manifest=manifest).require(manifest.tensors(top))


def _create(api: HfApi, name: str, private: bool) -> None:
    """Creates the repository, unless it is there. Raises UserError where it is not writable."""
    if get_token() is None:
        raise UserError(f"{name}: no token for the Hub; {LOG_IN}")
    with hub_errors(f"{name}: cannot be pushed"):
        api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"{name}: is on the Hub and public; make it private in its settings, or push "
                "without --private"
            )


def _choices(folder: Path, manifest: Manifest) -> list[tuple[Choice, int]]:
    """Returns a budget for every memory, and the bytes of its download."""
    return [
        (one, download_bytes(folder, manifest, one.planned) if one.planned else 0)
        for one in choices(folder, manifest)
    ]


def _message(folder: Path) -> str | None:
    """Returns a message of a user as the chat template writes it; None for no chat model."""
    try:
        tokenizer = load_tokenizer(folder)
        text = chat_text(tokenizer, [{"role": "user", "content": "Who are you?"}])
    except UserError:
        return None
    return text.strip("\n")


def _write_card(folder: Path, subject: Subject) -> None:
    """Writes README.md and its picture, unless somebody else wrote the README.md."""
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
    """Returns the container's own files, shards first; other files of the folder stay here."""
    small = {*files_beside(folder), *(name for name in _OWN if (folder / name).is_file())}
    return [*(shard.file for shard in manifest.shards), *sorted(small)]


def _upload(
    api: HfApi, folder: Path, name: str, files: list[str], progress: bool
) -> tuple[str, list[str]]:
    """Returns the commit, and the shards of an earlier container that it removes."""
    added = [CommitOperationAdd(file, folder / file) for file in files]
    with hub_errors(f"{name}: cannot be pushed"), _bars(progress):
        held = api.list_repo_files(name)
        removed = sorted(file for file in held if fnmatch(file, _SHARDS) and file not in files)
        for each in bar(_large(added), desc="upload", show=progress, unit="file"):
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
    """Keeps huggingface_hub from drawing its bars where none are shown."""
    if (shown and sys.stderr.isatty()) or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
