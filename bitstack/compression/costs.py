"""What a run will take, before it starts: time and peak memory.

Counted from the shapes of the skeleton and the recipe. Only the machine's speed is measured, on one
small matrix and one product, in about a second. The counts follow what `decompose`, `sensitivity`
and `tune` do; nothing is run here.
"""

import time
from collections.abc import Callable, Iterable

import torch

from bitstack.calibration.layers import LOGITS
from bitstack.calibration.windows import READ, TUNED
from bitstack.decompose import decompose
from bitstack.decompose.nested import Plan
from bitstack.ordering.greedy import PROBED, SHARES, TRIED
from bitstack.original.matrices import Matrix, find_layers
from bitstack.original.source import Source
from bitstack.recipe import Recipe

_PROCESS = 600 << 20  # bytes of Python, torch and transformers with nothing loaded
_PANEL = 160 << 20  # bytes of temporaries of one panel of rows
_FEW = 4096  # tokens on which whole orders are tried
_PER_WEIGHT = 600  # operations: what the elementwise work on a weight costs beside one product
_PROBE = (256, 768)  # rows and columns of the matrix that is decomposed to measure speed


def matrix_work(matrix: Matrix, recipe: Recipe, *, text: bool) -> float:
    """Operations that decomposing one matrix takes, in those of a large product.

    Without text inputs count alike, and the products are as good as free.
    """
    recipe = recipe.of(matrix.name)
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        # Ten power iterations on 3 k + 8 directions, or a full SVD.
        full = 20.0 * m * n * min(m, n)
        some = 4.0 * m * n * (3 * recipe.rank + 8) * 12
        return recipe.blocks * (full if recipe.svd == "full" else min(full, some))
    products, factors = _products(recipe)
    if not text:
        return products * m * n * _PER_WEIGHT
    return products * m * n * (2.0 * n + _PER_WEIGHT) + factors * 2.0 * n**3 / 3


def _products(recipe: Recipe) -> tuple[float, float]:
    """Products m n², and factorisations n³/3 in double precision, for all planes of a stack."""
    plan = Plan(recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes))
    searched = bool(recipe.search_sweeps)
    products = factors = 0.0
    for chain in plan.chains():
        top = 0
        for size in chain.groups:
            products += recipe.refit_rounds * sum(_refit(top + j) for j in range(1, size + 1))
            factors += recipe.refit_rounds * size
            top += size
            if searched:
                products += recipe.refit_rounds * (
                    recipe.search_sweeps * _search(1, 2**size) + 2 * _refit(top)
                )
                factors += 2 * recipe.refit_rounds
        for low, high in ((0, chain.joint), (chain.joint, top)) if searched else ():
            levels = range(max(low + 1, chain.first), high + 1)
            each = _search(len(levels), 2 ** (high - low)) + sum(_refit(j) + 1 for j in levels)
            products += recipe.joint_passes * each if levels else 0
            factors += recipe.joint_passes * len(levels)
    return products + recipe.blocks, factors


def _refit(level: int) -> float:
    """Products of one refit: rows, two for columns, and conjugate gradients for the table."""
    return 4.0 + min(6, 2**level)


def _search(levels: int, candidates: int) -> float:
    """Products of one pass: errors and updates; a candidate costs about a 400th of one."""
    return levels * (2.0 + candidates / 400)


def calibration_work(source: Source, matrices: Iterable[Matrix], tokens: int) -> float:
    """Operations of calibrating: three forwards, one backward, and the moments."""
    parameters = sum(p.numel() for p in source.model.parameters())
    moments = sum(2.0 * m.columns**2 for m in matrices if m.kind != "expert")
    return tokens * (8.0 * parameters + moments)


def finish_work(source: Source, matrices: list[Matrix], recipe: Recipe, length: int) -> float:
    """Operations of measuring the order and of tuning."""
    parameters = sum(p.numel() for p in source.model.parameters())
    passes, tried = sum(recipe.of(m.name).blocks for m in matrices), 0
    if recipe.order == "loss":
        passes = PROBED * len({m.role for m in matrices}) + 2
        tried = len(SHARES) * TRIED + 1
    windows = passes * recipe.order_samples + tried * few_samples(recipe, length)
    measured = (2.0 * windows * length + 20.0 * (passes + tried)) * parameters
    steps = recipe.tune_steps + recipe.fine_steps if recipe.tunes else 0
    # A step is a forward and a backward pass, and rebuilding matrices; before, every window that
    # they take is run through the original once.
    targets = min(steps * TUNED, READ * recipe.num_samples * recipe.seq_len) * 2.0 * parameters
    tuned = steps * TUNED * 8.0 * parameters + targets
    return measured + tuned


def few_samples(recipe: Recipe, length: int) -> int:
    """Windows of `length` tokens on which whole orders are tried."""
    return min(recipe.order_samples, max(1, _FEW // length))


def peak_memory(source: Source, matrices: list[Matrix], recipe: Recipe, batch: int) -> int:
    """Bytes resident at the peak; `batch` tokens are run at a time, 0 without text."""
    layers = find_layers(source.model)[1]
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in layers]
    whole = sum(p.numel() for p in source.model.parameters())
    outer, layer = 4 * (whole - sum(sizes)), 4 * max(sizes)
    largest = max((p.numel() * p.dtype.itemsize for p in source.model.parameters()), default=0)
    stages = [outer + largest]
    for matrix in matrices:
        held = layer if matrix.layer is not None else outer
        stages.append(held + _matrix_bytes(matrix, recipe.of(matrix.name), bool(batch)))
    if batch:
        text = source.config.get_text_config()
        wide = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
        sums = {(m.layer, m.columns) for m in matrices}
        worst = max(sum(4 * n * n for at, n in sums if at == index) for index in range(len(layers)))
        stages.append(layer + worst + 4 * batch * (6 * wide + 12 * text.hidden_size))
        stages.append(outer + 5 * 4 * max(LOGITS, text.vocab_size) + 12 * batch * text.hidden_size)
        if recipe.tunes:
            logits = 5 * 4 * TUNED * text.vocab_size
            chains = len(recipe.ends) + 1
            learning = max(1, chains - 1) if recipe.code_lr else 0
            codes = chains + 2 * learning + bool(learning)  # positions beside the codes
            stages.append((codes + 1) * whole + outer + logits + layer)
    return _PROCESS + max(stages)


def _matrix_bytes(matrix: Matrix, recipe: Recipe, text: bool) -> int:
    """While one matrix is decomposed: moments, codes, a panel, and the packed planes."""
    m, n = matrix.rows, matrix.columns
    if recipe.method == "signs":
        return 4 * n * n * 3 * text + 4 * m * n * 5
    plan = Plan(recipe.blocks, recipe.ends, joint_planes=tuple(recipe.joint_planes))
    chains = [*plan.chains()]
    joint = max(max(c.joint - c.first + 1, sum(c.groups) - c.joint) for c in chains)
    damped = joint if recipe.search_sweeps and recipe.joint_passes else 1
    squares = 4 * n * n * (5 + damped)  # two moments, the damped ones, one more and one in double
    return squares * text + 3 * m * n + m * n * recipe.blocks // 2 + _PANEL


def speed(recipe: Recipe, device: str, *, text: bool) -> tuple[float, float]:
    """Operations a second of decomposing and of running the model, each measured once."""
    rows, columns = _PROBE
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(rows, columns, generator=generator).to(device)
    decompose(weight[:8, :8], recipe.model_copy(update={"overrides": {}}))  # the first is slow
    small = recipe.model_copy(update={"overrides": {}})
    probe = Matrix("probe", "probe", "probe", "linear", rows, columns)
    moment = weight.T @ weight if text else None
    seconds = _timed(lambda: decompose(weight, small, moment=moment))
    factor = weight.new_ones(1024, 1024)
    product = min(_timed(lambda: factor @ factor) for _ in range(3))
    return matrix_work(probe, small, text=text) / seconds, 2 * 1024**3 / product


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def predict(
    source: Source, matrices: list[Matrix], recipe: Recipe, tokens: int, batch: int, device: str
) -> tuple[float, float, float]:
    """Seconds of calibrating, decomposing, and of order and tuning, by one worker.

    `tokens` are those of the calibration, `batch` of one pass; 0 without text.
    """
    decomposing, running = speed(recipe, device, text=bool(tokens))
    work = sum(matrix_work(m, recipe, text=bool(tokens)) for m in matrices)
    if not tokens:
        return 0.0, work / decomposing, 0.0
    length = min(batch, recipe.seq_len)
    calibrating = calibration_work(source, matrices, tokens)
    finishing = finish_work(source, matrices, recipe, length)
    return calibrating / running, work / decomposing, finishing / running
