"""Tensors that wait in files come back as they were, and files appear whole."""

from pathlib import Path

import pytest
import torch

from bitstack.calibration import spill as spill_module
from bitstack.calibration.spill import Spill
from bitstack.errors import UserError


def test_a_list_comes_back_in_its_order(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "new" / "spill")
    kept = [torch.full((2,), i, dtype=torch.float16) for i in range(11)]  # "10" sorts before "2"
    spill.put("states", kept)
    back = spill.get("states")
    assert [t.dtype for t in back] == [torch.float16] * 11
    assert all(torch.equal(a, b) for a, b in zip(back, kept, strict=True))


def test_named_tensors_without_their_graph_and_strides(tmp_path: Path) -> None:
    spill, leaf = Spill(tmp_path), torch.randn(3, 2, requires_grad=True)
    spill.put_named("sums", {"a": leaf.T * 2, "b": torch.arange(4)})
    back = spill.get_named("sums")
    assert back.keys() == {"a", "b"}
    assert torch.equal(back["a"], leaf.detach().T * 2)
    assert not back["a"].requires_grad


def test_a_key_is_replaced_and_removed(tmp_path: Path) -> None:
    spill = Spill(tmp_path)
    for value in (1.0, 2.0):
        spill.put("gradient-0", [torch.tensor([value])])
    assert spill.get("gradient-0")[0].item() == 2.0
    assert [file.name for file in tmp_path.iterdir()] == ["gradient-0"]
    spill.remove("gradient-0")
    spill.remove("gradient-0")  # there is none
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = Spill(tmp_path)
    spill.put("state", [torch.ones(2)])

    def fail(tensors: dict[str, torch.Tensor], file: Path) -> None:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spill_module, "save_file", fail)
    with pytest.raises(UserError, match="No space left on device"):
        spill.put("state", [torch.zeros(2)])
    assert torch.equal(spill.get("state")[0], torch.ones(2))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot write"):
        Spill(tmp_path / "file" / "spill")
