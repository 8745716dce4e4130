"""Predicts the peak memory of a run before it starts, from the model's skeleton and the recipe.

Follows what `calibration`, `decompose` and `tuning` hold. Does not compare it with what is free;
see `compression.inputs`.
"""

import torch

from bitstack.calibration.layers import LOGITS_AT_ONCE
from bitstack.calibration.windows import TUNING_TOKENS
from bitstack.decompose.rows import rows_of_blocks
from bitstack.original.config_facts import inner_width, text_config, width
from bitstack.original.decoder_layers import find_layers
from bitstack.original.matrix import Matrix
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_PROCESS_BYTES = 740 << 20  # Python, torch and transformers, and what oneDNN and threads keep
_MATRICES = 7  # of a layer, decomposed at the same time


def peak_memory(source: Source, matrices: list[Matrix], recipe: Recipe, batch: int) -> int:
    """Returns the bytes resident at the peak; `batch` tokens are run at a time, 0 without text.

    The peak is that of the stage that needs most.
    """
    layers = find_layers(source.model)[1]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    whole = sum(p.numel() for p in source.model.parameters())
    outer, layer = 4 * (whole - sum(sizes)), 4 * max(sizes)  # fp32
    largest = max((p.numel() * p.dtype.itemsize for p in source.model.parameters()), default=0)
    stages = [outer + largest]  # loading: the outer parts, and one tensor as it is read
    for matrix in matrices:
        held = layer if matrix.layer is not None else outer
        stages.append(held + _decompose_bytes(matrix, recipe.of(matrix.name), bool(batch)))
    if batch:
        hidden, words = width(source.config), text_config(source.config).vocab_size
        wide = inner_width(source.config) or 4 * hidden
        # Calibrating a layer: its weights, the moments of its inputs, activations and gradients.
        moments = {(m.layer, m.columns) for m in matrices}
        worst = max(
            sum(4 * n * n for at, n in moments if at == index) for index in range(len(layers))
        )
        stages.append(layer + worst + 4 * batch * (6 * wide + 12 * hidden))
        # The head: some copies of one piece of logits, and the largest tensor's file, still mapped.
        logits = max(LOGITS_AT_ONCE, words)
        stages.append(outer + largest + 8 * 4 * logits + 12 * batch * hidden)
        if recipe.tunes:
            logits = 3 * 4 * TUNING_TOKENS * words  # both, and what the head's gradients take
            chains = len(recipe.ends) + 1
            learning = max(1, chains - 1) if recipe.code_lr else 0
            # Bytes of a weight: a code for each chain, and beside those that learn an offset.
            codes = chains + 2 * learning + bool(learning)
            stages.append((codes + 1) * whole + outer + logits + layer)
    return _PROCESS_BYTES + max(stages)


def _decompose_bytes(matrix: Matrix, recipe: Recipe, text: bool) -> int:
    """Bytes while one matrix is decomposed: moments, and what blocks of rows side by side take."""
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        return 4 * n * n * 3 * text + 4 * m * n * 5
    learned, rows = rows_of_blocks(m, n)
    threads = torch.get_num_threads()
    # One matrix of several blocks, or several of one; threads keep what they have freed.
    side_by_side = 1 + threads / 2 if rows else min(threads, _MATRICES)
    # Of a weight of a block: X and its image, codes, a product a level, a few temporaries.
    held = int((4 * (2 + recipe.blocks + 6) + recipe.blocks) * learned * n * side_by_side)
    rest = 4 * m * n * (recipe.outliers == "auto")  # the matrix without its outliers
    return (4 * 3 + 2) * n * n * text + rest + held + m * n * recipe.blocks // 4
