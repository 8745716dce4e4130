"""Searches codes against the whole second moment: coordinate descent in panels of columns.

GPTQ (arXiv 2210.17323) and LDLQ (QuIP, arXiv 2307.13304) round column after column once and feed
the error to the columns still to come. This search does more: it visits every column of codes that
exist and takes the best value given all others, as often as it is called. With E = X − values and
G = E H, changing one weight's error by d changes the cost of its row by `2 d G_c + d² H_cc`: the
cost is quadratic, G is half its gradient and H_cc half its curvature. Within a panel only the
panel's own G is kept up to date. The columns of its section follow by one matrix product a panel,
all other columns by one a section: a product of few columns would wait for memory. Does not fit
scales; see `decompose.refit`.

Codes form a tree: those of one level differ from the ones below it by their last bits. Where the
lowest level that counts has many codes, only those are tried whose value there is near the best one
(`_WINDOW` of them), with all codes above them.

Floors for one pass over an m x n matrix and J levels: 2 J m n² operations in the products; for the
choices see `kernels/cpu/search.cpp`.
"""

from dataclasses import replace

import torch
from torch import Tensor

from bitstack.decompose.level import Level
from bitstack.decompose.problem import Problem
from bitstack.kernels.codes import Searched, is_native
from bitstack.kernels.codes import descend as descend_natively

_PANEL = 64  # columns
_SECTION = 256  # columns of some panels
_ALL = 8  # codes of the lowest level up to which all are tried
_WINDOW = 5  # codes of it that are tried where it has more


def descend(
    problem: Problem,
    levels: list[Level],
    dampings: list[float],
    weights: list[float],
    kept: int = 0,
) -> list[Level]:
    """Makes one pass over all columns; the weighted sum of the levels' errors never rises.

    Args:
        levels: levels that share their low planes: all codes are those of the last, masked. Those
            that count must have their products.
        dampings: what is added to the diagonal of M for each level. GPTQ damps to keep H
            invertible. Here it also limits how far codes leave the cell of their weight to cancel
            one another's errors: a later plane can only move inside the cell.
        weights: how much the error of each level counts; 0 leaves it out.
        kept: planes that stay as they are; the candidates agree with the present code there.

    Returns:
        `levels` with the chosen codes; scales and tables are the same. Those that count have their
        products.
    """
    counted = [i for i, weight in enumerate(weights) if weight > 0]
    some = [levels[i] for i in counted]
    damped = [dampings[i] for i in counted]
    gradients = [_gradient(problem, *pair) for pair in zip(some, damped, strict=True)]
    search = Searched(
        [level.planes for level in some], [level.table.contiguous() for level in some],
        [level.u.contiguous() for level in some], [level.v.contiguous() for level in some],
        gradients, torch.tensor([weights[i] for i in counted], dtype=torch.float32),
    )  # fmt: skip
    code = levels[-1].codes()
    for start in range(0, problem.shape[1], _SECTION):
        section = slice(start, min(start + _SECTION, problem.shape[1]))
        _choose_section(problem, search, damped, code, section, kept)
    chosen = [replace(level, code=code, product=None) for level in levels]
    for i, gradient, damping in zip(counted, gradients, damped, strict=True):
        error = chosen[i].error(problem)
        chosen[i] = replace(chosen[i], product=gradient.sub_(error, alpha=damping))
    return chosen


def _gradient(problem: Problem, level: Level, damping: float) -> Tensor:
    """G = (X − values)(M + damping · I), a new tensor [m, n]."""
    assert level.product is not None
    return level.error(problem).mul_(damping).add_(level.product)


def _choose_section(
    problem: Problem, search: Searched, dampings: list[float], code: Tensor, section: slice,
    kept: int,
) -> None:  # fmt: skip
    """Chooses the codes of a section of columns, in place, and updates G."""
    starts = range(section.start, section.stop, _PANEL)
    moves = [_choose_panel(problem, search, dampings, code, s, section, kept) for s in starts]
    if problem.space.moment.ndim == 1:
        return
    moment = problem.space.rough_moment
    for level, gradient in enumerate(search.products):
        moved = torch.cat([panel[level] for panel in moves], dim=1).to(moment.dtype)
        for rest in (slice(0, section.start), slice(section.stop, None)):
            if moment.dtype == gradient.dtype:
                gradient[:, rest].addmm_(moved, moment[section, rest])
            else:
                gradient[:, rest].add_(moved @ moment[section, rest])


def _choose_panel(
    problem: Problem, search: Searched, dampings: list[float], code: Tensor, start: int,
    section: slice, kept: int,
) -> Tensor:  # fmt: skip
    """Chooses the codes of the panel that starts at column `start`, in place, and updates G within
    its section; returns the moves of every level, [J, m, p]."""
    moment, part = problem.space.moment, slice(start, min(start + _PANEL, section.stop))
    block = torch.diag(moment[part]) if moment.ndim == 1 else moment[part, part]
    eye = torch.eye(len(block), device=block.device)
    blocks = torch.stack([block + damping * eye for damping in dampings])
    choose = descend_natively if is_native(code) else _descend_in_torch
    moves = choose(search, blocks, code, start, kept)
    for gradient, moved, damping in zip(search.products, moves, dampings, strict=True):
        if moment.ndim == 1:
            gradient[:, part].addcmul_(moved, moment[part])
        else:
            gradient[:, section].addmm_(moved, moment[part, section])
        gradient[:, part].add_(moved, alpha=damping)
    return moves


def _descend_in_torch(
    search: Searched, blocks: Tensor, code: Tensor, start: int, kept: int
) -> Tensor:
    """Does in torch what the native search does; see `kernels.codes.descend`."""
    moves = torch.zeros(len(blocks), len(code), blocks.shape[1], device=code.device)
    local = torch.stack([g[:, start : start + blocks.shape[1]] for g in search.products])
    for c in range(blocks.shape[1]):
        now = code[:, start + c].int()
        sizes = [u * v[start + c] for u, v in zip(search.u, search.v, strict=True)]
        candidates = _candidates(search, now, sizes[0], local[0, :, c] / blocks[0, c, c], kept)
        cost = torch.zeros(candidates.shape, device=code.device)
        changes = []
        for j, (table, planes) in enumerate(zip(search.tables, search.planes, strict=True)):
            mask = 2**planes - 1
            change = (table[now & mask] - table[candidates & mask]) * sizes[j]  # d, [K, m]
            slope = change * blocks[j, c, c] + 2 * local[j, :, c]
            cost += float(search.weights[j]) * change * slope  # 2 d G_c + d² H_cc
            changes.append(change)
        best = cost.argmin(0, keepdim=True)
        code[:, start + c] = candidates.gather(0, best)[0].to(code.dtype)
        for j, change in enumerate(changes):
            moves[j, :, c] = change.gather(0, best)[0]
            # The panel's other columns feel the change at once.
            local[j].addr_(moves[j, :, c], blocks[j, c])
    return moves


def _candidates(search: Searched, now: Tensor, size: Tensor, move: Tensor, kept: int) -> Tensor:
    """The codes that are tried instead of the codes `now` [m], which come first: [K, m].

    `size` [m] is the product of the scales at the lowest level, and `move` [m] how far the value
    there would go if every value could be taken.
    """
    lowest, top = search.planes[0], search.planes[-1]
    high = torch.arange(2 ** (top - lowest), device=now.device).int() << lowest
    prefixes = torch.arange(2 ** (lowest - kept), device=now.device).int() << kept
    if kept or len(prefixes) <= _ALL:
        prefixes = (now & (2**kept - 1)) | prefixes.unsqueeze(1)
    else:
        table = search.tables[0]
        order = table.argsort(stable=True)
        borders = (table[order][1:] + table[order][:-1]) / 2
        wanted = table[now & (2**lowest - 1)] + move / size
        at = torch.searchsorted(borders, wanted.contiguous())
        at = (at - _WINDOW // 2).clamp(0, len(order) - _WINDOW)
        prefixes = order[at + torch.arange(_WINDOW, device=now.device).unsqueeze(1)].int()
    below = prefixes.unsqueeze(0) | high.view(-1, 1, 1)
    return torch.cat([now.unsqueeze(0), below.flatten(0, 1)])
