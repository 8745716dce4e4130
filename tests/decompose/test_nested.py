"""Nested codes: what is stored is what was reported, and broken input does no harm. Also covers
`decompose.result`."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from bitstack import kernels
from bitstack.decompose import decompose
from bitstack.decompose.nested import Plan
from bitstack.decompose.result import Decomposed
from bitstack.decompose.rows import decompose_codes
from bitstack.recipe import load_recipe

from .problems import layer


def stored(done: Decomposed, level: int) -> Tensor:
    planes = [done.tensors[name] for name in done.spec.planes(level)]
    return kernels.dequantize(
        planes, done.tensors[f"scale_{level}"], done.spec.rows, done.spec.columns
    )


@pytest.mark.parametrize(
    "plan",
    [
        Plan(4),
        Plan(4, search_sweeps=0, joint_passes=0),
        Plan(3, joint_planes=(1, 2)),
        Plan(6, (4,)),
        Plan(3, (1,)),
        Plan(6, (2, 4)),
        Plan(6, (4,), joint_levels=4),
        Plan(3, (1, 2)),
    ],
)
def test_stored_levels_have_the_reported_errors(plan: Plan) -> None:
    weight, moment = layer(33, 21)
    done = decompose_codes(weight, plan, moment=moment)
    for level in range(1, plan.blocks + 1):
        error = weight - stored(done, level)
        rows = ((error @ moment) * error).sum(1)
        assert torch.allclose(done.row_errors[level - 1], rows, rtol=1e-3, atol=1e-6)


def test_every_level_is_better_than_the_one_below() -> None:
    weight, moment = layer(64, 48)
    errors = decompose_codes(weight, Plan(8), moment=moment).relative_errors
    assert all(b < 0.9 * a for a, b in pairwise(errors))


def test_searching_beats_closed_form_scales_alone() -> None:
    weight, moment = layer(96, 64)
    plain = decompose_codes(weight, Plan(4, search_sweeps=0, joint_passes=0), moment=moment)
    searched = decompose_codes(weight, Plan(4), moment=moment)
    for level in (2, 3, 4):
        assert searched.relative_errors[level - 1] < 0.7 * plain.relative_errors[level - 1]


def test_passes_are_left_out_above_a_level() -> None:
    weight, moment = layer(64, 48)
    whole, part, none = (
        decompose_codes(weight, plan, moment=moment).relative_errors
        for plan in (Plan(8, (4,)), Plan(8, (4,), joint_levels=4), Plan(8, (4,), joint_levels=3))
    )
    assert part[:4] == whole[:4]
    assert none[:4] != whole[:4]
    assert part[4:] == none[4:] != whole[4:]
    assert all(b < 0.5 * a for a, b in pairwise(part[3:]))


def test_without_text_no_pass_is_left_out() -> None:
    weight, _ = layer(64, 48)
    few, all_ = (
        decompose(weight, load_recipe("fast", joint_levels=levels)).relative_errors
        for levels in (4, 8)
    )
    assert few == all_


@pytest.mark.parametrize(
    "plan",
    [Plan(8, search_sweeps=0, joint_passes=0, refit_rounds=1), Plan(8, (4,), joint_passes=1)],
)
def test_inputs_that_are_nearly_one_direction(plan: Plan) -> None:
    """The best scale of some rows is next to nothing at the first levels; later ones reach them:
    no row keeps two thousandths of its square."""
    weight, _ = layer(96, 64)
    common = torch.ones(64, 1) + 0.2 * torch.randn(
        64, 1, generator=torch.Generator().manual_seed(1)
    )
    moment = torch.eye(64) * 0.05 + common @ common.T
    done = decompose_codes(weight, plan, moment=moment)
    left = weight - stored(done, 8)
    assert (left.square().sum(1) < 2e-3 * weight.square().sum(1)).all()
    assert done.relative_errors[7] < 2e-5


def test_without_a_moment_codes_reach_the_gaussian_bound() -> None:
    weight = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    errors = decompose_codes(weight, Plan(4, joint_planes=(1,), joint_passes=0)).relative_errors
    lloyd_max = (0.3634, 0.1175, 0.03454, 0.009497)  # scalar quantisers of a Gaussian, 1 to 4 bits
    assert all(e < 1.12 * bound for e, bound in zip(errors, lloyd_max, strict=True))


@pytest.mark.parametrize(
    "plan", [Plan(3, search_sweeps=1), Plan(6, search_sweeps=0, joint_passes=0)]
)
def test_no_moment_is_the_identity(plan: Plan) -> None:
    weight = layer(50, 70)[0]
    without = decompose_codes(weight, plan)
    identity = decompose_codes(weight, plan, moment=torch.eye(70))
    assert without.relative_errors == pytest.approx(identity.relative_errors, rel=0.02)
    for level in range(1, plan.blocks + 1):
        error = (weight - stored(without, level)).square().sum(1)
        assert torch.allclose(without.row_errors[level - 1], error, rtol=1e-3, atol=1e-6)


def test_same_input_same_bytes() -> None:
    weight, moment = layer()
    one, two = (decompose_codes(weight, Plan(5), moment=moment) for _ in range(2))
    assert all(torch.equal(one.tensors[name], two.tensors[name]) for name in one.tensors)


def outlier() -> Tensor:
    weight = layer()[0]
    weight[3, 5] = 1e4
    return weight


HARD = {
    "one row": layer(1, 40)[0],
    "one column": layer(48, 1)[0],
    "one number": torch.ones(1, 1),
    "constant": torch.full((48, 40), 0.25),
    "zero": torch.zeros(48, 40),
    "dead row": torch.cat([layer(47, 40)[0], torch.zeros(1, 40)]),
    "outlier": outlier(),
    "tiny": layer()[0] * 1e-6,
    "huge": layer()[0] * 1e4,
}


@pytest.mark.parametrize("name", HARD)
def test_hard_matrices(name: str) -> None:
    weight = HARD[name]
    done = decompose_codes(weight, Plan(8), moment=layer(4, weight.shape[1])[1])
    assert all(torch.isfinite(t).all() for t in done.tensors.values())
    left = (weight - stored(done, 8)).square().sum()
    assert left <= 0.01 * weight.square().sum() + 1e-12


def moments() -> dict[str, Tensor]:
    n = 40
    few = torch.randn(3, n, generator=torch.Generator().manual_seed(1))
    dead = layer()[1].clone()
    dead[7], dead[:, 7] = 0, 0
    return {"zero": torch.zeros(n, n), "fewer tokens than columns": few.T @ few, "dead": dead}


@pytest.mark.parametrize("name", ["zero", "fewer tokens than columns", "dead"])
def test_hard_moments(name: str) -> None:
    weight, _ = layer()
    moment = moments()[name]
    done = decompose_codes(weight, Plan(8), moment=moment)
    free = decompose_codes(weight, Plan(8))
    assert all(torch.isfinite(t).all() for t in done.tensors.values())
    hessian = moment if moment.any() else torch.eye(len(moment))
    for level in (2, 4):
        errors = [weight - stored(d, level) for d in (done, free)]
        with_moment, without = (float(((e @ hessian) * e).sum()) for e in errors)
        assert with_moment <= without * 1.001


def test_planes_of_their_own_come_nearer_than_nested_ones() -> None:
    """On the mean of some layers; and the levels below are those of a stack that ends there."""
    ratios = torch.ones(8)
    for seed in range(8):
        weight, moment = layer(96, 64, seed=seed)
        nested = decompose_codes(weight, Plan(8), moment=moment).relative_errors
        done = decompose_codes(weight, Plan(8, (2, 4)), moment=moment)
        ratios *= (torch.tensor(done.relative_errors) / torch.tensor(nested)) ** (1 / 8)
    for level, most in {2: 0.9, 3: 0.8, 4: 0.95, 5: 0.6, 6: 0.5, 7: 0.4, 8: 0.4}.items():
        assert ratios[level - 1] < most
    lower = decompose_codes(weight, Plan(4, (2,)), moment=moment).tensors
    assert all(torch.equal(done.tensors[name], lower[name]) for name in lower)
