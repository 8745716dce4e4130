"""Files of a folder from elsewhere: regular ones inside it, and no others."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bitstack import UserError
from bitstack.machine.plain_files import open_plain, plain_file, read_into
from damage import make_pipe


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("content")
    return tmp_path / "folder"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../outside", "a/../b", "/etc/passwd", "a\\b", "a\0"]
)
def test_names_that_are_not_plain(folder: Path, name: str) -> None:
    with pytest.raises(UserError, match="is no plain file name"):
        plain_file(folder, name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_pipe, "is no regular file"),
        (lambda path: path.mkdir(), "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is no regular file"),
        (lambda path: path.symlink_to("../outside"), "is a link that leads out of the folder"),
        (lambda path: path.symlink_to("/nothing/there"), "is a link that leads out of the folder"),
        (lambda path: path.symlink_to(path.name), "cannot be opened"),
    ],
)
def test_what_is_no_file(folder: Path, make: Callable[[Path], None], message: str) -> None:
    make(folder / "it")
    with pytest.raises(UserError, match=f"it: {message}"):
        plain_file(folder, "it")


def test_files_and_links_within(folder: Path) -> None:
    (folder / "link").symlink_to("file")
    for name in ("file", "link"):
        with open_plain(plain_file(folder, name)) as file:
            assert file.read() == b"content"
    assert not plain_file(folder, "none").exists()
    (folder.parent / "way").symlink_to(folder)  # the folder itself may be reached by a link
    assert plain_file(folder.parent / "way", "file").exists()


def test_links_of_the_cache_of_the_hub(tmp_path: Path) -> None:
    repo = tmp_path / "models--some--one"
    snapshot = repo / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "blobs/1234").write_text("content")
    (repo / "refs").write_text("main")
    (snapshot / "file").symlink_to("../../blobs/1234")
    (snapshot / "other").symlink_to("../../refs")
    assert plain_file(snapshot, "file").read_text() == "content"
    with pytest.raises(UserError, match="other: is a link that leads out"):
        plain_file(snapshot, "other")


def test_reading_into(folder: Path) -> None:
    target, seen = bytearray(7), list[bytes]()
    with open_plain(folder / "file") as file:
        read_into(file, memoryview(target), "it", lambda piece: seen.append(bytes(piece)))
    assert target == b"content" == b"".join(seen)
    with open_plain(folder / "file") as file, pytest.raises(ValueError, match="ends within it"):
        read_into(file, memoryview(bytearray(8)), "it")
    make_pipe(folder / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        open_plain(folder / "pipe")
