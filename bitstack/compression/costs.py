"""Predicts what a run takes before it starts: operations, seconds and peak memory.

Counted from the shapes of the model's skeleton and the recipe. Only the machine's speed is
measured, on one small matrix and one product, in about a second. The counts follow what
`decompose`, `calibration` and `tuning` do. Does not compare them with what is free; see
`compression.inputs`.
"""

import time
from collections.abc import Callable, Iterable

import torch

from bitstack.calibration.layers import LOGITS_AT_ONCE
from bitstack.calibration.windows import READ_FACTOR, TUNING_TOKENS
from bitstack.decompose import decompose
from bitstack.decompose.nested import Plan
from bitstack.decompose.refit import PRODUCTS
from bitstack.ordering.greedy import MEASURED_SHARES, PROBED_LEVELS, TRIED_SIZES
from bitstack.original.matrices import Matrix, find_layers
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_PROCESS_BYTES = 600 << 20  # Python, torch and transformers with nothing loaded
_PANEL_BYTES = 160 << 20  # temporaries of one panel of rows
_TRIAL_TOKENS = 4096  # tokens on which whole orders are tried
_PER_WEIGHT = 600  # operations: what the elementwise work on a weight costs beside one product
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
    products, factorisations = _stack_counts(recipe)
    if not text:
        return products * m * n * _PER_WEIGHT
    return products * m * n * (2.0 * n + _PER_WEIGHT) + factorisations * 2.0 * n**3 / 3


def _stack_counts(recipe: Recipe) -> tuple[float, float]:
    """Number of products of m n² multiply-adds, and of factorisations of n³/3 in double precision,
    for all planes of one stack. Follows `decompose.nested` step by step."""
    plan = Plan(recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes))
    searched = bool(recipe.search_sweeps)
    products = factorisations = 0.0
    for chain in plan.chains():
        top = 0
        for size in chain.groups:
            levels = range(top + 1, top + size + 1)
            products += recipe.refit_rounds * sum(_refit_products(j) for j in levels)
            factorisations += recipe.refit_rounds * size
            top += size
            if searched:
                products += recipe.refit_rounds * (
                    recipe.search_sweeps * _pass_products(1, 2**size) + 2 * _refit_products(top)
                )
                factorisations += 2 * recipe.refit_rounds
        for low, high in ((0, chain.joint), (chain.joint, top)) if searched else ():
            levels = range(max(low + 1, chain.first), high + 1)
            each = _pass_products(len(levels), 2 ** (high - low))
            each += sum(_refit_products(j) + 1 for j in levels)
            products += recipe.joint_passes * each if levels else 0
            factorisations += recipe.joint_passes * len(levels)
    return products + recipe.blocks, factorisations


def _refit_products(level: int) -> float:
    """Products of one refit: rows, two for columns, and conjugate gradients for the table."""
    return 4.0 + min(PRODUCTS, 2**level)


def _pass_products(levels: int, candidates: int) -> float:
    """Products of one search pass: errors and updates; a candidate costs about a 400th of one."""
    return levels * (2.0 + candidates / 400)


def calibration_operations(source: Source, matrices: Iterable[Matrix], tokens: int) -> float:
    """Returns the operations of calibrating: three forwards, one backward, and the moments."""
    parameters = sum(p.numel() for p in source.model.parameters())
    moments = sum(2.0 * m.columns**2 for m in matrices if m.kind != "expert")
    return tokens * (8.0 * parameters + moments)


def finish_operations(source: Source, matrices: list[Matrix], recipe: Recipe, length: int) -> float:
    """Returns the operations of measuring the order and of tuning, with windows of `length`."""
    parameters = sum(p.numel() for p in source.model.parameters())
    passes, tried = 0, 0
    if recipe.order == "perplexity":
        passes = sum(recipe.of(m.name).blocks for m in matrices)
    elif recipe.order == "loss":
        passes = PROBED_LEVELS * len({m.role for m in matrices}) + 2
        tried = len(MEASURED_SHARES) * TRIED_SIZES + 1
    windows = passes * recipe.order_samples + tried * trial_windows(recipe, length)
    measured = (2.0 * windows * length + 20.0 * (passes + tried)) * parameters
    steps = recipe.tune_steps + recipe.fine_steps if recipe.tunes else 0
    # A step is a forward and a backward pass, and rebuilding matrices; before, every window that
    # they take is run through the original once.
    read = READ_FACTOR * recipe.num_samples * recipe.seq_len
    targets = min(steps * TUNING_TOKENS, read) * 2.0 * parameters
    tuned = steps * TUNING_TOKENS * 8.0 * parameters + targets
    return measured + tuned


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
        text = source.config.get_text_config()
        wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        # Calibrating a layer: its weights, the moments of its inputs, activations and gradients.
        moments = {(m.layer, m.columns) for m in matrices}
        worst = max(
            sum(4 * n * n for at, n in moments if at == index) for index in range(len(layers))
        )
        stages.append(layer + worst + 4 * batch * (6 * wide + 12 * text.hidden_size))
        # The head: some copies of one piece of logits.
        logits = max(LOGITS_AT_ONCE, text.vocab_size)
        stages.append(outer + 5 * 4 * logits + 12 * batch * text.hidden_size)
        if recipe.tunes:
            logits = 5 * 4 * TUNING_TOKENS * text.vocab_size
            chains = len(recipe.ends) + 1
            learning = max(1, chains - 1) if recipe.code_lr else 0
            # Bytes of a weight: a code for each chain, and beside those that learn an offset.
            codes = chains + 2 * learning + bool(learning)
            stages.append((codes + 1) * whole + outer + logits + layer)
    return _PROCESS_BYTES + max(stages)


def _decompose_bytes(matrix: Matrix, recipe: Recipe, text: bool) -> int:
    """Bytes while one matrix is decomposed: moments, codes, a panel, and the packed planes."""
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        return 4 * n * n * 3 * text + 4 * m * n * 5
    plan = Plan(recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes))
    chains = [*plan.chains()]
    joint = max(max(c.joint - c.first + 1, sum(c.groups) - c.joint) for c in chains)
    damped = joint if recipe.search_sweeps and recipe.joint_passes else 1
    squares = 4 * n * n * (5 + damped)  # two moments, the damped ones, one more and one in double
    rest = 4 * m * n * (recipe.outliers == "auto")  # the matrix without its outliers
    return squares * text + rest + 3 * m * n + m * n * recipe.blocks // 2 + _PANEL_BYTES


def measure_speed(recipe: Recipe, device: str, *, text: bool) -> tuple[float, float]:
    """Returns operations a second of decomposing, and of running the model, each measured once."""
    rows, columns = _PROBE
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator).to(device)
    # The trials of forms take some rows: next to nothing of a large matrix, most of a small one.
    small = recipe.model_copy(update={"overrides": {}, "rotation": "always", "outliers": "never"})
    decompose(weight[:8, :8], small)  # the first is slow
    probe = Matrix("probe", "probe", "probe", "linear", rows, columns)
    moment = weight.T @ weight if text else None
    seconds = _seconds(lambda: decompose(weight, small, moment=moment))
    factor = weight.new_ones(1024, 1024)
    product = min(_seconds(lambda: factor @ factor) for _ in range(3))
    return decompose_operations(probe, small, text=text) / seconds, 2 * 1024**3 / product


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def predict_seconds(
    source: Source, matrices: list[Matrix], recipe: Recipe, tokens: int, batch: int, device: str
) -> tuple[float, float, float]:
    """Returns the seconds of calibrating, of decomposing, and of order and tuning, by one worker.

    Args:
        tokens: of the calibration; 0 without text.
        batch: tokens of one pass; 0 without text.
    """
    decomposing, running = measure_speed(recipe, device, text=bool(tokens))
    operations = sum(decompose_operations(m, recipe, text=bool(tokens)) for m in matrices)
    if not tokens:
        return 0.0, operations / decomposing, 0.0
    length = min(batch, recipe.seq_len)
    calibrating = calibration_operations(source, matrices, tokens)
    finishing = finish_operations(source, matrices, recipe, length)
    return calibrating / running, operations / decomposing, finishing / running
