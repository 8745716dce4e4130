"""Attention of few queries against torch's in double precision, by every compiled kernel."""

import ctypes

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitstack.kernels import arguments, library, selection
from bitstack.kernels.attention import attend, can_attend

Case = tuple[Tensor, Tensor, Tensor, Tensor | None]


def make(
    batch: int, heads: int, group: int, steps: int, tokens: int, sizes: tuple[int, int],
    dtype: torch.dtype = torch.float32, *, masked: bool = False, seed: int = 0,
) -> Case:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    mask = torch.rand(batch, 1, steps, tokens, generator=generator) < 0.6 if masked else None
    if mask is not None:
        mask[..., 0] = True
    return (
        normal(batch, heads * group, steps, sizes[0]),
        normal(batch, heads, tokens, sizes[0]),
        normal(batch, heads, tokens, sizes[1]),
        mask,
    )


def exact(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
    group = query.shape[1] // key.shape[1]
    keys, values = (t.double().repeat_interleave(group, 1) for t in (key, value))
    out = F.scaled_dot_product_attention(query.double(), keys, values, mask, scale=scaling)
    return out.transpose(1, 2)


@pytest.fixture
def compiled(kernel: str) -> str:
    if kernel == "reference":
        pytest.skip("torch's attention runs where no kernel was compiled")
    return kernel


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "sizes", [(1, 1, 1, 1, 1, (1, 1)), (1, 2, 4, 1, 63, (64, 64)), (2, 3, 1, 5, 130, (10, 12)),
              (1, 1, 20, 3, 65, (33, 70)), (3, 2, 2, 2, 64, (128, 96))]
)  # fmt: skip
def test_attention_is_torchs(compiled: str, sizes: tuple, dtype: torch.dtype) -> None:
    for masked in (False, True):
        case = make(*sizes, dtype, masked=masked)
        assert can_attend(*case)
        wanted = exact(*case, 0.3)
        out = attend(*case, 0.3)
        assert out.dtype == dtype
        assert out.shape == wanted.shape
        step = max(float(torch.finfo(dtype).eps), 1e-6)
        assert (out.double() - wanted).abs().max() <= step * wanted.abs().max().clamp(min=1)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4), tokens=st.integers(1, 200),
    sizes=st.tuples(st.integers(1, 40), st.integers(1, 40)), masked=st.booleans(),
    large=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_any_sizes_and_scores(
    compiled: str, shape: tuple[int, int, int, int], tokens: int, sizes: tuple[int, int],
    masked: bool, large: bool, seed: int,
) -> None:  # fmt: skip
    case = make(*shape, tokens, sizes, masked=masked, seed=seed)
    scaling = 50.0 if large else 0.5  # large: one token takes all the weight
    wanted = exact(*case, scaling)
    out = attend(*case, scaling)
    assert (out.double() - wanted).abs().max() < (2e-4 if large else 3e-6)


def test_strides_of_a_cache_and_of_heads(compiled: str) -> None:
    query, key, value, mask = make(2, 2, 3, 2, 90, (16, 16), masked=True)
    assert mask is not None
    wanted = attend(query, key, value, mask, 0.25)
    turned = query.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.full((2, 2, 128, 16), torch.nan)
    wide[:, :, 20:110] = key
    out = attend(turned, wide[:, :, 20:110], value.clone(), mask.expand(2, 6, 2, 90), 0.25)
    assert torch.equal(out, wanted)


def test_number_of_threads_changes_no_bit(compiled: str) -> None:
    case = make(2, 3, 4, 1, 500, (64, 64), torch.bfloat16)
    before = torch.get_num_threads()
    try:
        outs = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            outs.append(attend(*case, 0.125))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_a_query_that_sees_nothing_gets_zeros(compiled: str) -> None:
    query, key, value, _ = make(1, 1, 1, 2, 70, (8, 8))
    mask = torch.zeros(1, 1, 2, 70, dtype=torch.bool)
    mask[:, :, 1, 68] = True
    out = attend(query, key, value, mask, 1.0)
    assert (out[:, 0] == 0).all()
    assert torch.allclose(out[0, 1, 0], value[0, 0, 68])


def test_not_a_number_is_not_hidden(compiled: str) -> None:
    query, key, value, _ = make(1, 1, 2, 1, 70, (8, 8))
    key[0, 0, 3] = torch.nan
    assert attend(query, key, value, None, 1.0).isnan().all()


def refused() -> dict[str, Case]:
    query, key, value, _ = make(2, 2, 2, 1, 9, (8, 8))
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    return {
        "dtypes": (query, key.half(), value, None),
        "double": (query.double(), key.double(), value.double(), None),
        "heads": (query[:, :3], key, value, None),
        "no queries": (query[:, :, :0], key, value, None),
        "no tokens": (query, key[:, :, :0], value[:, :, :0], None),
        "tokens": (query, key, value[:, :, :8], None),
        "sequences": (query, key[:1], value[:1], None),
        "sizes": (query[..., :7], key, value, None),
        "gaps": (query[..., ::2], key[..., ::2], value[..., ::2], None),
        "dimensions": (query[0], key[0], value[0], None),
        "mask of numbers": (query, key, value, mask.float()),
        "mask's tokens": (query, key, value, mask[..., :1]),
        "mask's sequences": (query, key, value, mask.expand(2, 3, 1, 9)),
        "mask's dimensions": (query, key, value, mask[0]),
        "a gradient": (query.clone().requires_grad_(), key, value, None),
        "another device": (query.to("meta"), key, value, None),
    }


@pytest.mark.parametrize("what", refused())
def test_other_calls_are_left_to_torch(what: str) -> None:
    case = refused()[what]
    assert not can_attend(*case)
    with pytest.raises(ValueError, match="can_attend"):
        attend(*case, 1.0)


def test_reference_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITSTACK_KERNEL", "reference")
    assert not can_attend(*make(1, 1, 1, 1, 9, (8, 8)))


@pytest.mark.parametrize(
    "change",
    [{"batch": 3}, {"heads": 5}, {"group": 9}, {"steps": 2}, {"tokens": 10}, {"key_size": 9},
     {"value_size": 9}, {"tokens": 0}, {"batch": -1}, {"heads": 2**40}, {"key_size": 2**17},
     {"query": (64, 16, -1)}, {"key": (2**62, 72, 8)}, {"value": (144, 73, 8)},
     {"mask": (10, 0, 0)}],
)  # fmt: skip
def test_library_refuses_sizes_beyond_the_buffers(change: dict) -> None:
    if not selection.variants():
        pytest.skip("the compiled kernels were not built")
    query, key, value, _ = make(2, 2, 2, 1, 9, (8, 8))
    mask = torch.ones(2, 1, 1, 9, dtype=torch.bool)
    fields = {
        "batch": 2, "heads": 2, "group": 2, "steps": 1, "tokens": 9, "key_size": 8,
        "value_size": 8, "query": (32, 8, 8), "key": (144, 72, 8), "value": (144, 72, 8),
        "mask": (9, 0, 0), "scaling": 1.0,
    }  # fmt: skip
    out = torch.empty(2, 1, 4, 8)

    def run(sizes: library.AttentionSizes, count: int) -> int:
        functions = library.load()
        assert functions is not None
        last = selection.variants()[-1].index
        tensors = [(t.data_ptr(), t.numel()) for t in (query, key, value, mask, out)]
        flat = [number for pair in tensors for number in pair]
        code: int = functions.bitstack_attention(
            last, ctypes.addressof(sizes), count, *flat, arguments.number_of(torch.float32), 2
        )
        return code

    good = library.AttentionSizes(**fields)
    size = ctypes.sizeof(good)
    assert run(good, size) == 0
    assert run(good, size - 8) != 0
    assert run(library.AttentionSizes(**fields | change), size) != 0
    with pytest.raises(ValueError, match="attention"):
        library.fail(run(library.AttentionSizes(**fields | change), size))
