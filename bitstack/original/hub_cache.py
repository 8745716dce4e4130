"""Gives models named on the Hub as folders of the local cache: small files first, weights later.

Everything goes through the cache of huggingface_hub: a download resumes, is made once, and is
shared with other tools. Does not look into the files; see `original.source` and
`container.manifest`.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import tqdm

from bitstack.errors import UserError, one_line
from bitstack.machine.progress import LoggedBar
from bitstack.original.file_names import BESIDE, TEMPLATES

# Config, manifest and index, tokenizer, licence: all that is not weights.
SMALL = ("*.json", "*.txt", *(name for name in BESIDE if name != TEMPLATES))
GGUF = ".gguf"
_CACHED = "models--"  # begins the cache's folder of a model
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"
_NAME = re.compile(r"(?P<name>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[^@\s]+))?", re.ASCII)


@dataclass(frozen=True)
class Remote:
    """A model on the Hub at one commit, so that all files fetched belong together."""

    name: str
    commit: str
    token: str | bool | None = field(default=None, repr=False, compare=False)

    def fetch(self, patterns: Iterable[str]) -> None:
        """Downloads the files that match into the cache.

        Args:
            patterns: File names or patterns such as `*.json`.

        Raises:
            UserError: The Hub does not give them.
        """
        _download(self.name, self.commit, self.token, patterns)

    def names(self) -> list[str]:
        """Returns the names of all files.

        Raises:
            UserError: The Hub does not give them.
        """
        with hub_errors(f"{self.name}: cannot be listed"):
            return HfApi(
                library_name="bitstack", library_version=version("bitstack")
            ).list_repo_files(self.name, revision=self.commit, token=self.token)


@dataclass(frozen=True)
class Located:
    """A model's folder on this machine, and where missing files come from."""

    folder: Path
    remote: Remote | None = None  # None: the folder is complete
    gguf: str | None = None  # the file of the folder that is the model, where it is a GGUF


def locate(
    path: str | Path | Located,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    gguf_file: str | None = None,
) -> Located:
    """Returns a model's folder: `path` itself, or for `owner/name[@revision]` one of the cache.

    Of a model on the Hub only the small files are downloaded; `remote` fetches the others. A path
    that cannot be a name on the Hub is taken for a folder, whether it exists or not, or for a GGUF
    where its name ends so.

    Args:
        revision: Branch, tag or commit on the Hub; goes before one in `path`.
        token: As huggingface_hub takes it; None for HF_TOKEN or the stored login.
        gguf_file: Name of the GGUF in the folder or repository that is the model.

    Raises:
        UserError: The Hub does not give the model, or a revision is given for a folder.
    """
    if isinstance(path, Located):
        return path
    if str(path).endswith(GGUF) and not Path(path).is_dir() and gguf_file is None:
        return Located(Path(path).parent, gguf=Path(path).name)
    named = _NAME.fullmatch(str(path))
    if Path(path).exists() or named is None:
        if revision is not None:
            raise UserError(f"revision {revision}: {path} is a folder, and only the Hub has them")
        return Located(Path(path), gguf=gguf_file)
    name = named["name"]
    folder = _download(name, revision or named["revision"], token, SMALL, ignored="*/*")
    remote = Remote(name, folder.name, token)
    remote.fetch([TEMPLATES])  # by itself, because other folders' files are left out
    return Located(folder, remote, gguf_file)


def is_remote(path: str) -> bool:
    """Tells whether a path is nothing here, but may be `owner/name[@revision]` on the Hub."""
    return not Path(path).exists() and _NAME.fullmatch(path) is not None


def name_in_cache(folder: Path) -> str | None:
    """Returns the name on the Hub of a folder in huggingface_hub's cache; None for another one."""
    parts = folder.absolute().parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith(_CACHED):
        return None
    return parts[-3].removeprefix(_CACHED).replace("--", "/")


def is_name(text: str) -> bool:
    """Tells whether a text is `owner/name` without a revision, and so may be a name on the Hub."""
    named = _NAME.fullmatch(text)
    return named is not None and named["revision"] is None


def check_name(text: str) -> None:
    """Checks that a text is `owner/name`.

    Raises:
        UserError: It is not.
    """
    if not is_name(text):
        raise UserError(f"{text}: no name for the Hub; give owner/name")


def _download(
    name: str,
    revision: str | None,
    token: str | bool | None,
    patterns: Iterable[str],
    ignored: str | None = None,
) -> Path:
    with hub_errors(f"{name}: no such folder, and the Hub did not give it"):
        return Path(
            snapshot_download(
                name,
                revision=revision,
                token=token,
                allow_patterns=list(patterns),
                ignore_patterns=ignored,
                tqdm_class=_Bar,
                library_name="bitstack",
                library_version=version("bitstack"),
            )
        )


class _Bar(LoggedBar, tqdm):
    """A progress bar in a terminal, lines elsewhere."""


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Within it, an error of huggingface_hub becomes a UserError of one line.

    Args:
        what: The beginning of that line: what could not be done.

    Raises:
        UserError: The Hub or the network gave an error.
    """
    try:
        yield
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{what}: {_reason(error)}") from None
    except AttributeError as error:
        if error.obj is not None or error.name != "request":
            raise
        # huggingface_hub met a client that another thread had closed (see `_reason`).
        raise UserError(f"{what}: it cannot be reached; check the network and call again") from None


def _reason(error: Exception) -> str:
    """Says what went wrong and what to do about it."""
    cause = error.__cause__
    if isinstance(error, LocalEntryNotFoundError | RuntimeError) and isinstance(cause, Exception):
        return _reason(cause)  # the wrapper says only that the cache does not help
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set and the cache lacks files; unset it to download them"
    if isinstance(error, RevisionNotFoundError):
        return "it has the model, but not this revision; name a branch, a tag or a commit of it"
    if isinstance(error, GatedRepoError):
        return f"its terms are to be accepted first; do so on its page, and {LOG_IN}"
    if isinstance(error, HfHubHTTPError):
        return _answer(error)
    # A thread that loses the connection closes the client of all; the others report only that.
    closed = isinstance(error, RuntimeError) and "client has been closed" in str(error)
    if closed or isinstance(error, HTTPError | ConnectionError):
        return f"it cannot be reached ({one_line(error)}); check the network and call again"
    return one_line(error)


def _answer(error: HfHubHTTPError) -> str:
    status, said = error.response.status_code, error.response.headers.get("X-Error-Message")
    if status == 401 and said == "Invalid credentials in Authorization header":
        return f"the token is not valid; {LOG_IN}"
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return f"it has none of this name, or a private one; check the name, and {LOG_IN}"
    if status == 403:
        detail = f" ({said})" if said else ""
        return f"the token has no right to do this{detail}; use one that has, and {LOG_IN}"
    return f"it answered {status} ({one_line(error)}); call again later"
