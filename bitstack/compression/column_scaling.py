"""Scales columns as the published BitStack does, folded into the operation before (2410.23918).

The columns of every matrix are multiplied by the norm of its inputs and the operation before
(a norm, or the projection whose channels reach the input one by one) is divided, so the function
stays the same. Which operation that is, is found by trying: a fold that changes what the layer
computes is taken back (grouped-query `o_proj`, an activation in between). Does not measure the
norms; see `calibration.observers`.
"""

from collections.abc import Callable, Iterator

from torch import Tensor, nn

from bitstack.calibration.observers import Moments
from bitstack.original.matrix import Matrix

_OFFSET = 1e-3  # added to the norms, arXiv 2410.23918
_TOLERANCE = 1e-3  # relative; a wrong fold is off by its whole scale


def fold_scales(
    model: nn.Module, matrices: list[Matrix], moments: dict[str, Moments], run: Callable[[], Tensor]
) -> dict[str, Tensor]:
    """Scales the columns of `matrices` in place wherever that can be folded.

    Args:
        matrices: those of one loaded layer.
        run: gives the layer's output on some input, always the same.

    Returns:
        The scale [n] of each scaled matrix, by name.
    """
    before = run()
    scales: dict[str, Tensor] = {}
    for members in _shared_inputs(matrices, moments):
        scale = moments[members[0].name].mean_norm() + _OFFSET
        consumers = [(m, model.get_parameter(m.parameter)) for m in members]
        for undo in _folds(model, matrices, members, scale):
            for matrix, parameter in consumers:
                matrix.of(parameter).mul_(scale)
            if _equal(run(), before):
                scales |= {m.name: scale for m in members}
                break
            for matrix, parameter in consumers:
                matrix.of(parameter).div_(scale)
            undo()
    return scales


def _shared_inputs(matrices: list[Matrix], moments: dict[str, Moments]) -> list[list[Matrix]]:
    """Matrices of the layer that read the same tensor, together (q, k, v)."""
    groups: dict[int, list[Matrix]] = {}
    for matrix in matrices:
        if matrix.name in moments and matrix.kind != "expert":
            groups.setdefault(id(moments[matrix.name]), []).append(matrix)
    return list(groups.values())


def _folds(
    model: nn.Module, matrices: list[Matrix], members: list[Matrix], scale: Tensor
) -> Iterator[Callable[[], None]]:
    """Divides one candidate after another by `scale`; each yields a function that takes it back."""
    consumed = {m.name for m in members}
    prefix = _common_prefix([m.module for m in matrices])
    for name, module in model.named_modules():
        if not name.startswith(prefix) or name in consumed:
            continue
        weight, bias = (module._parameters.get(key) for key in ("weight", "bias"))
        if weight is None or _outputs(module, weight) != len(scale):
            continue
        for divide in (_divided, _divided_from_one) if weight.ndim == 1 else (_divided,):
            kept = [(p, p.clone()) for p in (weight, bias) if p is not None]
            transposed = any(m.module == name and m.transposed for m in matrices)
            weight.copy_(divide(weight, scale, transposed))
            if bias is not None:
                bias.div_(scale)
            yield lambda kept=kept: [p.copy_(old) for p, old in kept] and None  # type: ignore[misc]


def _outputs(module: nn.Module, weight: Tensor) -> int:
    return int(getattr(module, "nf", 0)) or weight.shape[0]  # nf: Conv1D stores inputs first


def _divided(weight: Tensor, scale: Tensor, transposed: bool) -> Tensor:
    if weight.ndim == 1 or transposed:
        return weight / scale
    return weight / scale.unsqueeze(1)


def _divided_from_one(weight: Tensor, scale: Tensor, _: bool) -> Tensor:
    """For norms that multiply by 1 + weight (Gemma)."""
    return (1 + weight) / scale - 1


def _equal(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).abs().max() <= _TOLERANCE * b.abs().max())


def _common_prefix(names: list[str]) -> str:
    """The module path of the layer, for example `model.layers.3.`."""
    parts = [name.split(".") for name in names]
    shared = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
    return ".".join(shared) + "."


def scaled_moment(moment: Tensor | None, scale: Tensor | None) -> Tensor | None:
    """Returns E[x xᵀ] of the inputs after they were divided by `scale` [n]."""
    return moment if moment is None or scale is None else moment / scale / scale.unsqueeze(1)
