"""Finds which weights of a model are decomposed, on its meta skeleton: by structure, and by what a
pass of the model's code without weights shows.

A matrix is a Linear, a GPT-2 Conv1D, one expert of a fused 3-D expert tensor, the input embedding
or the LM head, whatever the model calls itself and them. Everything else stays dense and is listed
with its bytes, never passed over in silence. Does not read values; see `original.source`.
"""

from collections.abc import Iterator

from torch import nn
from transformers.pytorch_utils import Conv1D

from bitstack.original.decoder_layers import embedding_and_head, find_layers, layer_of
from bitstack.original.dry_pass import DryPass, dry_pass
from bitstack.original.forms import computes_product, experts_form
from bitstack.original.matrix import Dense, Matrix


def find_matrices(
    model: nn.Module, *, embeddings: bool = True, seen: DryPass | None = None
) -> list[Matrix]:
    """Returns all matrices: embedding and LM head, then the others in the order of the modules.

    Args:
        embeddings: False leaves the embedding and the LM head dense, tied or not.
        seen: A dry pass of `model`, if one was made already.

    Raises:
        UserError: The model has no list of decoder layers.
    """
    seen = seen or dry_pass(model)
    layers = find_layers(model, seen)[0]
    outer = {id(module) for module in embedding_and_head(model)}
    shared = getattr(model, "all_tied_weights_keys", {})  # with the first layer that has it (Zamba)
    apart = {origin for key, origin in shared.items() if not _same_bias(model, key, origin)}
    dense = {*shared, *apart, *seen.rewritten}
    inner = [
        matrix
        for name, module in model.named_modules()
        if id(module) not in outer
        for matrix in _matrices_of(name, module, layers, seen)
        if matrix.parameter not in dense
        and (matrix.layer is not None or seen.reached(matrix.parameter))
    ]
    return [*_embedding_and_head(model), *inner] if embeddings else inner


def _same_bias(model: nn.Module, key: str, origin: str) -> bool:
    """Whether two modules that share a parameter share their bias too: one can stand for both."""
    first, second = (model.get_submodule(name.rpartition(".")[0]) for name in (key, origin))
    return getattr(first, "bias", None) is getattr(second, "bias", None)


def find_dense(model: nn.Module, matrices: list[Matrix]) -> list[Dense]:
    """Returns every tensor of the live model that no matrix covers; a shared one counts once."""
    taken = {m.parameter for m in matrices} | {f"{m.tied}.weight" for m in matrices if m.tied}
    saved = set(model.state_dict())
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [
        Dense(name, tuple(t.shape), t.dtype, name in saved)
        for name, t in tensors
        if name not in taken
    ]


def _matrices_of(name: str, module: nn.Module, layers: str, seen: DryPass) -> Iterator[Matrix]:
    layer = layer_of(name, layers)
    if isinstance(module, nn.Linear):
        if not computes_product(module):
            return  # does something of its own (a router that picks experts): stays dense
        rows, columns = module.weight.shape
        yield Matrix(name, f"{name}.weight", name, "linear", rows, columns, layer)
    elif isinstance(module, Conv1D):
        columns, rows = module.weight.shape
        yield Matrix(name, f"{name}.weight", name, "conv1d", rows, columns, layer, transposed=True)
    else:
        yield from _experts_of(name, module, layer, seen)


def _experts_of(name: str, module: nn.Module, layer: int | None, seen: DryPass) -> Iterator[Matrix]:
    """Matrices of fused experts: 3-D parameters [experts, out, in], or [experts, in, out].

    Which, the module says as `is_transposed`, which transformers' expert kernels read, or else the
    way in which its forward multiplies. Others stay dense: a convolution has a 3-D parameter too.
    """
    for key, parameter in module.named_parameters(recurse=False):
        if parameter.ndim != 3:
            continue
        full = f"{name}.{key}"
        form = experts_form(seen.uses[full]) if seen.error is None else None
        if form is None and not hasattr(module, "is_transposed"):
            continue
        transposed = bool(getattr(module, "is_transposed", form and form.transposed))
        count, a, b = parameter.shape
        rows, columns = (b, a) if transposed else (a, b)
        for e in range(count):
            yield Matrix(f"{full}.{e}", full, name, "expert", rows, columns, layer, e, transposed)


def _embedding_and_head(model: nn.Module) -> Iterator[Matrix]:
    names = {id(module): name for name, module in model.named_modules()}
    embedding, head = embedding_and_head(model)
    tied = head is not None and head.weight is embedding.weight
    if tied and isinstance(head, nn.Linear) and not computes_product(head):
        return  # both stay dense
    if isinstance(embedding, nn.Embedding):
        name = names[id(embedding)]
        rows, columns = embedding.weight.shape
        shared = names[id(head)] if tied else None
        yield Matrix(name, f"{name}.weight", name, "embedding", rows, columns, tied=shared)
    if isinstance(head, nn.Linear) and not tied and computes_product(head):
        name = names[id(head)]
        rows, columns = head.weight.shape
        yield Matrix(name, f"{name}.weight", name, "head", rows, columns)
