"""Runs that cannot be lost: two at once, a disk that fails, work that is left over, and what an
interrupted run does not do again."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitstack import UserError, compress
from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.compression import job as job_module
from bitstack.compression import matrix_pool
from bitstack.compression.pipeline import RECIPE
from bitstack.container import journal as work
from bitstack.container.making import MADE
from bitstack.container.manifest import FOLDER, MANIFEST
from bitstack.machine.folder_lock import FolderLock

Folder = Callable[..., Path]
FEW = {"num_samples": 3, "seq_len": 24, "order_samples": 1, "order": "predicted"}
QUICK = {**FEW, "blocks": 2, "search_sweeps": 0, "joint_passes": 0, "tune_steps": 2}
PAPER = {"num_samples": 3, "seq_len": 24, "recipe": "paper", "blocks": 1, "rank": 3}
PAPER |= {"order": "predicted"}


class Killed(Exception):
    """Stands for a killed process."""


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the one that says how long the run took."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MADE]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(
    pico_model: Folder, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The files of a run that nobody disturbs."""
    output = tmp_path_factory.mktemp("whole") / "out"
    return contents(compress(pico_model("llama-tied"), output, calibration=str(text_file), **QUICK))


def fail_at(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, at: int, action: Callable[[], None]
) -> None:
    """Before the `at`-th call of `target.name` something happens."""
    original, calls = getattr(target, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == at:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, failing)


def kill() -> None:
    raise Killed


def fill_disk() -> None:
    raise OSError(28, "No space left on device")


# --- two at once ---


def test_a_second_run_of_the_same_output_is_refused(
    pico_model: Folder, run: Folder, tmp_path: Path
) -> None:
    with FolderLock(tmp_path / "out" / FOLDER) as first:
        first.take()
        before = contents(tmp_path / "out")
        with pytest.raises(UserError, match="another run is writing to this folder") as error:
            run(pico_model("llama-tied"), **QUICK)
        assert "\n" not in str(error.value)
        assert contents(tmp_path / "out") == before
    run(pico_model("llama-tied"), **QUICK | {"tune_steps": 0})


# --- a container whose work was left over ---


@pytest.fixture
def left_over(pico_model: Folder, run: Folder, monkeypatch: pytest.MonkeyPatch) -> Path:
    with monkeypatch.context() as patch:
        fail_at(patch, work, "remove_work", 1, kill)
        with pytest.raises(Killed):
            run(pico_model("llama-tied"), **QUICK)
    fail_at(monkeypatch, matrix_pool, "decompose", 1, kill)  # no work is done again
    fail_at(monkeypatch, LayerRunner, "run_layer", 1, kill)
    return pico_model("llama-tied")


def test_a_whole_container_is_cleaned_and_called_finished(
    left_over: Path, run: Folder, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    assert (tmp_path / "out" / FOLDER).is_dir()
    assert run(left_over, **QUICK) == tmp_path / "out"
    assert contents(tmp_path / "out") == whole
    with pytest.raises(UserError, match="already holds a container"):
        run(left_over, **QUICK)


def test_a_whole_container_is_not_called_that_of_another_run(
    left_over: Path, run: Folder, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    with pytest.raises(UserError, match="already holds a container"):
        run(left_over, **QUICK | {"seed": 3})
    assert contents(tmp_path / "out") == whole


def test_the_manifest_comes_last_and_everything_is_on_the_disk_before(
    pico_model: Folder, run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    replace, fsync = os.replace, os.fsync
    named: list[str] = []

    def noted_sync(handle: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def noted_replace(source: Any, target: Any, **kwargs: Any) -> None:
        assert str(Path(source).resolve()) in synced
        named.append(Path(target).name)
        if Path(target).name == MANIFEST:
            out = tmp_path / "out"
            files = {str(path) for path in out.iterdir() if path.is_file()}
            parts = {path for path in files if Path(path).suffix == ".safetensors"}
            assert files - parts <= synced | {str(out / f"{MANIFEST}.partial")}
            assert str(out / RECIPE) in files
            assert len(parts) >= 2
        replace(source, target, **kwargs)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_replace)
    run(pico_model("llama-tied"), **QUICK | {"tune_steps": 0})
    assert named[-1] == MANIFEST


# --- disks that fail ---


@pytest.mark.parametrize("at", [5, 9, 30, 55, 74])
@pytest.mark.parametrize("vanishes", [True, False])
def test_a_disk_that_fills_up_and_a_folder_that_vanishes(
    pico_model: Folder, run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    whole: dict[str, bytes], at: int, vanishes: bool,
) -> None:  # fmt: skip
    """At several of about 80 waits for the disk: one line, and the same bytes when it goes on."""
    out = tmp_path / "out"
    action = (lambda: shutil.rmtree(out)) if vanishes else fill_disk
    with monkeypatch.context() as patch:
        fail_at(patch, os, "fsync", at, action)
        with pytest.raises(UserError, match=r"cannot (write|be read) \(.*same command again") as e:
            run(pico_model("llama-tied"), **QUICK)
    assert "\n" not in str(e.value)
    assert not (out / MANIFEST).exists()
    assert contents(run(pico_model("llama-tied"), **QUICK)) == whole


def test_files_that_may_not_grow(pico_model: Folder, run: Folder, whole: dict[str, bytes]) -> None:
    """The system itself refuses the write."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write \(.*[Ff]ile too large"):
            run(pico_model("llama-tied"), **QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert contents(run(pico_model("llama-tied"), **QUICK)) == whole


def test_a_folder_that_may_not_be_written_is_named_before_the_work(
    pico_model: Folder, run: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *mode: path != tmp_path and access(path, *mode))
    monkeypatch.setattr(job_module, "fingerprint", lambda *_: kill())
    with pytest.raises(UserError, match=r"--output \S+out: cannot write \(permission denied\)"):
        run(pico_model("llama-tied"), **QUICK)


# --- what is not done again ---


@pytest.mark.parametrize(
    ("fields", "key", "again"),
    [
        (QUICK, "fisher-1-0", {0, 1}),  # back from the head, which is done
        (QUICK, "target-2-0", {1}),
        (PAPER, "state-2-0", {1}),  # the first layer's matrices are finished
    ],
    ids=["gradients", "targets", "rolled states"],
)
def test_layers_that_are_not_run_again(
    pico_model: Folder, run: Folder, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any],
    key: str, again: set[int],
) -> None:  # fmt: skip
    model = pico_model("llama-tied")
    expected = contents(run(model, "whole", **fields))
    put, run_layer = Spill.put_named, LayerRunner.run_layer

    def killing(self: Spill, name: str, *args: Any) -> None:
        if name == key:
            raise Killed
        put(self, name, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Spill, "put_named", killing)
        with pytest.raises(Killed):
            run(model, "out", **fields)
    indices: list[int] = []

    def noted(self: LayerRunner, index: int, *args: Any) -> Any:
        indices.append(index)
        return run_layer(self, index, *args)

    monkeypatch.setattr(LayerRunner, "run_layer", noted)
    folder = run(model, "out", **fields)
    assert set(indices[:2]) <= again, indices
    assert contents(folder) == expected
