"""Keeps the hidden states that enter every layer in files, so that any layer runs by itself.

Does not run layers; see `calibration.layers`.
"""

import torch
from torch import Tensor

from bitstack.calibration.layers import LayerRunner
from bitstack.calibration.spill import Spill
from bitstack.machine.progress import bar


def state_key(layer: int, batch: int) -> str:
    """File of the hidden states of a batch that enter `layer`; for the number of layers, those that
    leave the last one."""
    return f"state-{layer}-{batch}"


def spill_states(
    runner: LayerRunner, spill: Spill, batches: list[int], *, show: bool = False
) -> None:
    """Writes the hidden states that enter every layer, and those that leave the last, to files.

    Files that are there already, from a run that was interrupted, are not made again. A bar is
    shown if `show`.
    """

    def missing(layer: int) -> list[int]:
        return [batch for batch in batches if not spill.has(state_key(layer, batch))]

    with torch.no_grad():
        with runner.outer_loaded():
            runner.record_calls()
            for batch in missing(0):
                spill.put(state_key(0, batch), [runner.embed_batch(batch)])
        for index in bar(range(len(runner)), desc="calibration", show=show, unit="layer"):
            if not (left := missing(index + 1)):
                continue
            with runner.layer_loaded(index):
                for batch in left:
                    hidden = read_state(runner, spill, state_key(index, batch))
                    spill.put(state_key(index + 1, batch), [runner.run_layer(index, hidden)])


def read_state(runner: LayerRunner, spill: Spill, key: str) -> Tensor:
    """Returns the states, or gradients, of a file, on the runner's device."""
    return spill.get(key)[0].to(runner.device)
