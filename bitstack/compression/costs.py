"""Predicts what a run takes before it starts: operations, seconds and peak memory.

Counted from the shapes of the model's skeleton and the recipe. Only the machine's speed is
measured, on one small matrix and one product, in about a second. The counts follow what
`decompose`, `calibration` and `tuning` do. Does not compare them with what is free; see
`compression.inputs`.
"""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from bitstack.calibration.fisher import GRADIENT_TOKENS
from bitstack.calibration.layers import LOGITS_AT_ONCE
from bitstack.calibration.windows import READ_FACTOR, TUNING_TOKENS
from bitstack.compression.matrix_pool import MatrixPool, MatrixTask
from bitstack.decompose.form import ROWS as TRIAL_ROWS
from bitstack.decompose.nested import REFIT_EVERY, Plan
from bitstack.decompose.refit import PRODUCTS as REFIT_PRODUCTS
from bitstack.decompose.rows import rows_of_blocks
from bitstack.machine.device import product_dtype
from bitstack.ordering.greedy import MEASURED_SHARES, PROBED_LEVELS, TRIED_SIZES
from bitstack.original.config_facts import inner_width, text_config, width
from bitstack.original.decoder_layers import find_layers
from bitstack.original.matrix import Matrix
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_PROCESS_BYTES = 600 << 20  # Python, torch and transformers with nothing loaded
_TRIAL_TOKENS = 4096  # tokens on which whole orders are tried
# What the elementwise work beside a product costs, in operations of a product:
_PER_WEIGHT = 800  # of a weight, beside each product of a decomposition
_PER_WIDTH = 16_000  # of a number of the hidden state, in one layer forward
_TUNED_PER_WIDTH = 41_000  # of the same forward and back in a step of tuning, in fp32 products
_TUNED_PER_LOGIT = 5_600  # of a logit there
_TRIAL_PRODUCTS = 5.0  # of a trial of a form, on some rows
_MATRICES = 7  # of a layer, decomposed at the same time
_PROBE = (256, 768)  # rows and columns of the matrix that is decomposed to measure speed


def decompose_operations(matrix: Matrix, recipe: Recipe, *, text: bool) -> float:
    """Returns the operations of decomposing one matrix, in units of those of a large product.

    Args:
        recipe: of the run; the matrix's overrides are applied here.
        text: whether there is calibration text. Without it the second moment is diagonal, and the
            products with it cost next to nothing.
    """
    recipe = recipe.of(matrix.name)
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        # A full SVD, or ten power iterations on 3 k + 8 directions.
        full = 20.0 * m * n * min(m, n)
        truncated = 4.0 * m * n * (3 * recipe.rank + 8) * 12
        return recipe.blocks * (full if recipe.svd == "full" else min(full, truncated))
    each = _PER_WEIGHT + (2.0 * n if text else 0.0)
    forms = (2 if recipe.rotation == "auto" else 1) * (2 if recipe.outliers == "auto" else 1)
    tried = _TRIAL_PRODUCTS * (forms if forms > 1 else 0) * min(m, TRIAL_ROWS)
    learned, rows = rows_of_blocks(m, n)
    work = stack_products(recipe, REFIT_PRODUCTS) * learned + stack_products(recipe, 1) * rows
    return (work + tried) * n * each


def stack_products(recipe: Recipe, refit: float) -> float:
    """Returns the number of products of m n² multiply-adds for all planes of one stack, if a refit
    takes `refit` of them. Follows `decompose.nested` step by step."""
    plan = Plan(
        recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes),
        joint_levels=recipe.joint_levels,
    )  # fmt: skip
    searched = recipe.search_sweeps > 0
    chosen_again = searched and recipe.joint_passes > 0
    products = 1.0 + recipe.blocks  # of the matrix itself, and the errors of what is stored
    for chain in plan.chains():
        tops = [sum(chain.groups[: i + 1]) for i in range(len(chain.groups))]
        again = {level for _, levels in chain.joint_levels() for level in levels}
        stale = {*range(chain.first, tops[-1] + 1)}
        if searched:
            products += len(tops) * (1 + recipe.refit_rounds * (recipe.search_sweeps + refit))
            stale -= {*tops}
        if chosen_again:
            refits = -(-recipe.joint_passes // REFIT_EVERY)
            products += len(again & stale) + len(again) * (recipe.joint_passes + refits * refit)
            stale -= again
        products += len(stale) * (1 + recipe.refit_rounds * refit)
    return products


def calibration_operations(
    source: Source, matrices: Iterable[Matrix], tokens: int, length: int
) -> tuple[float, float]:
    """Returns the operations of calibrating with windows of `length`: those of the model, two
    forwards over all tokens and one of them and back over some; and those of the moments."""
    layers = find_layers(source.model)[1]
    whole = sum(p.numel() for p in source.model.parameters())
    inside = sum(p.numel() for p in layers.parameters())
    back = min(tokens, max(GRADIENT_TOKENS, length))
    layer = 2.0 * inside + _PER_WIDTH * len(layers) * width(source.config)
    running = layer * (2 * tokens + 2.5 * back) + (whole - inside) * (2.0 * tokens + 6.0 * back)
    # Matrices that read the same input share its moment; about half of them do, and all parts.
    own = (m for m in matrices if m.kind != "expert" and not m.first_row)
    moments = sum(0.7 * m.columns**2 for m in own)
    return running, tokens * moments


def order_operations(source: Source, matrices: list[Matrix], recipe: Recipe, length: int) -> float:
    """Returns the operations of measuring the order, with windows of `length`."""
    parameters = sum(p.numel() for p in source.model.parameters())
    passes, tried = 0, 0
    if recipe.order == "perplexity":
        passes = sum(recipe.of(m.name).blocks for m in matrices)
    elif recipe.order == "loss":
        passes = PROBED_LEVELS * len({m.role for m in matrices}) + 2
        tried = len(MEASURED_SHARES) * TRIED_SIZES + 1
    windows = passes * recipe.order_samples + tried * trial_windows(recipe, length)
    return (2.0 * windows * length + 20.0 * (passes + tried)) * parameters


def tuning_operations(source: Source, recipe: Recipe) -> tuple[float, float]:
    """Returns the operations of tuning: those of its products, and of what is beside them.

    A step is a forward and a backward pass, and rebuilding matrices; before, every window that they
    take is run through the original once.
    """
    steps = recipe.tune_steps + recipe.fine_steps if recipe.tunes else 0
    parameters = sum(p.numel() for p in source.model.parameters())
    read = READ_FACTOR * recipe.num_samples * recipe.seq_len
    targets = min(steps * TUNING_TOKENS, read) * 2.0 * parameters
    hidden = len(find_layers(source.model)[1]) * width(source.config)
    words = text_config(source.config).vocab_size
    beside = _TUNED_PER_WIDTH * hidden + _TUNED_PER_LOGIT * words
    tokens = float(steps * TUNING_TOKENS)
    return tokens * 8.0 * parameters + targets, tokens * beside


def trial_windows(recipe: Recipe, length: int) -> int:
    """Returns the number of windows of `length` tokens on which whole orders are tried."""
    return min(recipe.order_samples, max(1, _TRIAL_TOKENS // length))


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
    return 4 * n * n * 3 * text + rest + held + m * n * recipe.blocks // 4


class Speeds(NamedTuple):
    """Operations a second on this machine."""

    decomposing: float
    running: float  # the model, in the dtype in which it calibrates
    products: float  # in fp32


def measure_speed(recipe: Recipe, device: str, *, text: bool) -> Speeds:
    """Measures each speed once."""
    rows, columns = _PROBE
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator).to(device)
    # The trials of forms take some rows: next to nothing of a large matrix, most of a small one.
    small = recipe.model_copy(update={"overrides": {}, "rotation": "always", "outliers": "never"})
    probe = Matrix("probe", "probe", "probe", "linear", rows, columns)
    moment = weight.T @ weight if text else None
    tasks = [MatrixTask(probe, small, weight, moment, None, False)] * torch.get_num_threads()
    with MatrixPool(device) as pool:
        first = MatrixTask(probe, small, weight[:8, :8], None, None, False)
        list(pool.run([first] * len(tasks)))  # the first is slow
        seconds = _seconds(lambda: list(pool.run(tasks)))
    decomposing = len(tasks) * decompose_operations(probe, small, text=text) / seconds
    products = []
    for dtype in (product_dtype(device), torch.float32):
        factor = weight.new_ones(1024, 1024, dtype=dtype)
        best = min(_seconds(lambda factor=factor: factor @ factor) for _ in range(3))  # type: ignore[misc]
        products.append(2 * 1024**3 / best)
    return Speeds(decomposing, *products)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def predict_seconds(
    source: Source, matrices: list[Matrix], recipe: Recipe, tokens: int, batch: int, speeds: Speeds
) -> tuple[float, float, float]:
    """Returns the seconds of calibrating, of decomposing, and of order and tuning, by one worker.

    Args:
        tokens: of the calibration; 0 without text.
        batch: tokens of one pass; 0 without text.
    """
    operations = sum(decompose_operations(m, recipe, text=bool(tokens)) for m in matrices)
    if not tokens:
        return 0.0, operations / speeds.decomposing, 0.0
    length = min(batch, recipe.seq_len)
    model, moments = calibration_operations(source, matrices, tokens, batch)
    calibrating = model / speeds.running + moments / speeds.products
    multiplied, beside = tuning_operations(source, recipe)
    measured = order_operations(source, matrices, recipe, length)
    finishing = multiplied / speeds.running + (beside + measured) / speeds.products
    return calibrating, operations / speeds.decomposing, finishing
