"""Games in a lower precision, on the CPU in bfloat16, and the bound on what it costs the total interaction."""

import pytest
import torch
from torch.nn import functional as F

import irlib
from irlib.game import AttackGame
from tests.conftest import assert_untouched, make_images, make_network, snapshot


@pytest.fixture
def single():
    return make_network(size=12).float()


def make_games(network, batch=10, grid=6, **kwargs):
    """The same game in bfloat16 and in float32."""
    x = make_images(batch=batch, size=12).float()
    delta = 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    y = network(x).argmax(1)
    return [AttackGame(network, x, delta, y, grid=grid, precision=precision, **kwargs) for precision in (torch.bfloat16, None)]


@pytest.mark.parametrize("utility", ["ce", "margin"])
def test_values_in_bfloat16_are_near_those_in_float32_but_not_the_same(utility, single):
    low, full = make_games(single, batch=3, utility=utility)
    coalitions = torch.rand(40, 36, generator=torch.Generator().manual_seed(0)) < 0.5
    values, expected = low(coalitions), full(coalitions)
    assert values.dtype == torch.float64
    assert (values != expected).double().mean() > 0.9
    rounding = 2**-8 * single(full.x + full.delta).abs().max()  # of one logit, whose terms are rounded to 8 bits
    assert (values - expected).abs().max() < 4 * rounding < expected.abs().max()
    assert low(torch.zeros(1, 36, dtype=torch.bool)).abs().max() == 0


def test_the_convolutions_run_in_it_and_only_during_the_call(single):
    seen = []
    single[0].register_forward_hook(lambda m, i, o: seen.append(o.dtype))
    low, full = make_games(single, batch=2, utility="margin")
    for game, expected in ((low, torch.bfloat16), (full, torch.float32)):
        seen.clear()
        game(torch.ones(1, 36, dtype=torch.bool))
        assert set(seen) == {expected} and not torch.is_autocast_enabled("cpu")
    seen.clear()
    AttackGame(single, low.x, low.delta, low.y, grid=6, utility="margin", precision=torch.bfloat16)
    assert len(seen) == 3 and set(seen) == {torch.bfloat16}  # the first clean image, the rivals, the other clean image


def test_without_precision_the_values_are_those_of_the_network_bit_for_bit(single):
    _, game = make_games(single, batch=1, chunk=1)
    coalitions = torch.rand(12, 36, generator=torch.Generator().manual_seed(0)) < 0.5
    mask = coalitions.view(12, 1, 6, 6).repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.no_grad():
        u = torch.cat(
            [F.cross_entropy(single(game.x + game.delta * m).double(), game.y, reduction="none") for m in [torch.zeros_like(mask[0]), *mask]]
        )
    assert game(coalitions)[0].equal(u[1:] - u[0])


def test_the_model_stays_as_it_was(single):
    before = snapshot(single)
    irlib.precision_error(make_games(single, batch=2)[0], cells=3)
    assert_untouched(single, before)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64, torch.int8, "bf16", "bfloat16", 16, True])
def test_another_precision_is_refused(precision, single):
    x = make_images(size=12).float()
    with pytest.raises(ValueError, match="precision must be torch.bfloat16, torch.float16, or None"):
        AttackGame(single, x, 0.1 * x, torch.tensor([0, 1, 2]), grid=6, precision=precision)


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize("cells", [36, 50])
def test_with_all_cells_the_error_is_the_difference_of_the_totals(cells, utility, single):
    low, full = make_games(single, utility=utility)
    miss = (irlib.total_interaction(low) - irlib.total_interaction(full)).abs()
    assert miss.min() > 1e-5
    found = irlib.precision_error(low, cells=cells)
    assert found.dtype == torch.float64 and found.shape == (10,)
    torch.testing.assert_close(found, miss, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cells", [4, 12])
def test_with_some_cells_it_bounds_the_difference_and_is_not_far_above_it(cells, single):
    low, full = make_games(single)
    miss = (irlib.total_interaction(low) - irlib.total_interaction(full)).abs()
    bounds = torch.stack([irlib.precision_error(low, cells=cells, seed=seed) for seed in range(12)])
    assert (bounds >= miss).double().mean() >= 0.9
    assert bounds.mean() < 5 * miss.mean()  # a bound of any size would hold


def test_more_cells_sharpen_the_bound(single):
    low, _ = make_games(single)
    mean = [torch.stack([irlib.precision_error(low, cells=cells, seed=seed) for seed in range(6)]).mean() for cells in (4, 12, 36)]
    assert mean[0] > mean[1] > mean[2]


def test_the_bound_is_the_extrapolated_sum_and_two_standard_errors_of_a_sample_without_replacement(single):
    """Two of four cells: the bounds of all six samples, enumerated, are those that the seeds find."""
    low, full = make_games(single, batch=2, grid=2)
    inside = torch.eye(4, dtype=torch.bool)
    everyone = torch.ones(1, 4, dtype=torch.bool)
    each = torch.stack([low(s) - full(s) for s in (everyone.expand(4, -1), inside, ~inside)])
    each = each[0] - each[1] - each[2]  # (batch, 4): what the precision does to each term of the total
    possible = set()
    for i in range(4):
        for j in range(i):
            a, b = each[:, i], each[:, j]
            error = (a - b).abs() / 2**0.5 / 2**0.5 * (1 - 2 / 4) ** 0.5  # of the mean: s/√2, and the correction for a finite population of 4
            possible.add(tuple((4 * ((a + b).abs() / 2 + 2 * error)).round(decimals=10).tolist()))
    found = {tuple(irlib.precision_error(low, cells=2, seed=seed).round(decimals=10).tolist()) for seed in range(60)}
    assert found == possible and len(found) == 6


def test_the_seed_decides_the_cells_whatever_the_global_state(single):
    low, _ = make_games(single, batch=2)
    first = irlib.precision_error(low, cells=3, seed=5)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert irlib.precision_error(low, cells=3, seed=5).equal(first)
    assert not irlib.precision_error(low, cells=3, seed=6).equal(first)
    assert torch.get_rng_state().equal(before)
    torch.testing.assert_close(irlib.precision_error(low), irlib.precision_error(low, cells=32, seed=0), rtol=0, atol=0)


@pytest.mark.parametrize("cells", [2, 7])
def test_it_takes_the_evaluations_it_says(cells, single):
    passes = []
    single.register_forward_hook(lambda m, i, o: passes.append(len(o)))
    low, _ = make_games(single, batch=3)
    passes.clear()
    irlib.precision_error(low, cells=cells)
    # both games' coalitions, and v(∅) of the game in full precision; the other is made already
    assert sum(passes) == 3 * (2 * (2 * cells + 1) + 1)


def test_a_game_of_no_lower_precision_or_too_few_cells_are_refused(single):
    low, full = make_games(single, batch=2)
    with pytest.raises(ValueError, match="own precision.*precision=torch.bfloat16"):
        irlib.precision_error(full)
    for cells in (1, 0, -3, 2.5):
        with pytest.raises(ValueError, match="cells must be a whole number ≥ 2"):
            irlib.precision_error(low, cells=cells)
