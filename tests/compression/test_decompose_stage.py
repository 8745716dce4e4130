"""What the stage adds to its parts: losses of the matrices, experts without tokens included."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, MixtralConfig

import pico
from bitstack.compression.decompose_stage import DecomposeStage
from bitstack.compression.job import open_job
from bitstack.recipe import load_recipe


def test_an_expert_no_token_chose_is_weighed_as_its_siblings(
    tmp_path: Path, text_file: Path
) -> None:
    """Weighed with ones instead, it would take the first bytes of every budget."""
    sizes = pico.SIZES | {"num_hidden_layers": 1}
    config = MixtralConfig(
        **sizes, num_key_value_heads=2, num_local_experts=12, num_experts_per_tok=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(tmp_path / "model")
    pico.tokenizer().save_pretrained(tmp_path / "model")
    fields = {"num_samples": 1, "seq_len": 4, "blocks": 2, "search_sweeps": 0, "joint_passes": 0}
    recipe = load_recipe("default", calibration=str(text_file), **fields)
    job = open_job(tmp_path / "model", tmp_path / "out", recipe, False)
    stage = DecomposeStage(job)
    stage.run()
    assert stage.statistics.fisher is not None
    reached = stage.statistics.fisher.rows
    for part in ("gate_up_proj", "down_proj"):
        losses = {
            m.name: job.journal.notes[m.name]["losses"][0]
            for m in job.matrices
            if m.kind == "expert" and part in m.name
        }
        known = [loss for name, loss in losses.items() if name in reached]
        unknown = [loss for name, loss in losses.items() if name not in reached]
        assert 4 <= len(unknown) <= 10
        assert max(unknown) < 10 * max(known)
        assert min(unknown) > 0
