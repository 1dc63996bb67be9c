"""The coalitions of the interaction loss: how often cells and pairs come together, by counting, and the number of pairs, by enumeration."""

import itertools

import pytest
import torch

from irlib.draws import Draws, SharedDraws
from irlib.samplers import SAMPLERS, blocks_a_round, pairs_across
from tests.conftest import make_images

BLOCKS = ("partition", "stratified")


def drawn(name, n, count, coalition, batch=4, seed=0):
    return SAMPLERS[name].draw(Draws(make_images(batch=batch), seed), n, count, coalition)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_image_has_its_own_coalitions_unless_they_are_shared(name):
    own = drawn(name, 36, 5, 4)
    assert own.dtype == torch.bool and own.shape == (4, 5, 36)
    assert not any(own[i].equal(own[j]) for i, j in itertools.combinations(range(4), 2))
    shared = SAMPLERS[name].draw(SharedDraws(make_images(), 0), 36, 5, 4)
    assert shared.shape == (1, 5, 36)
    assert shared.equal(SAMPLERS[name].draw(SharedDraws(make_images(seed=9), 0), 36, 5, 4))
    assert not shared.equal(SAMPLERS[name].draw(SharedDraws(make_images(), 1), 36, 5, 4))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("n", "coalition"), [(9, 2), (16, 3), (25, 4), (36, 12)])
def test_cells_are_drawn_equally_often_and_pairs_counted_as_stated(name, n, coalition):
    A = drawn(name, n, 7, coalition, batch=3000).flatten(0, 1)
    frequency = A.double().mean(0)
    assert (frequency / frequency.mean() - 1).abs().max() < 0.15
    k = A.sum(1).double()
    across = (k * (n - k)).view(3000, 7).mean(1)
    assert abs(across.mean() - SAMPLERS[name].pairs(n, 7, coalition)) <= 4 * across.std() / 3000**0.5 + 1e-9


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("n", "coalition"), [(9, 2), (16, 3), (25, 4), (36, 12), (49, 50)])
def test_a_round_of_blocks_has_each_cell_once_and_blocks_of_like_size(name, n, coalition):
    blocks = blocks_a_round(n, 1, coalition)
    A = drawn(name, n, 2 * blocks, coalition)
    for half in A.split(blocks, 1):
        assert (half.sum(1) == 1).all()
        assert set(half.sum(2).unique().tolist()) <= {n // blocks, -(-n // blocks)}
    assert blocks == 1 or not A[:, :blocks].equal(A[:, blocks:])
    assert drawn(name, n, blocks + 1, coalition).shape[1] == blocks + 1


def test_strata_are_patches_and_give_a_block_a_cell_each():
    """16 × 16 cells and 16 blocks: the patches are the 4 × 4 squares."""
    A = drawn("stratified", 256, 16, 16).view(4, 16, 4, 4, 4, 4)
    assert (A.sum((3, 5)) == 1).all()
    together = drawn("stratified", 256, 16, 16, batch=200).double()
    beside = together[:, :, 17] * together[:, :, 18]  # cells (1, 1) and (1, 2), of one patch
    assert beside.sum() == 0


@pytest.mark.parametrize(("n", "coalition"), [(4, 3), (4, 1), (9, 3), (2, 5), (3, 7), (5, 5)])
def test_pairs_across_is_the_mean_over_all_draws(n, coalition):
    total = 0
    for cells in itertools.product(range(n), repeat=coalition):
        k = len(set(cells))
        total += k * (n - k)
    assert pairs_across(n, coalition) == pytest.approx(total / n**coalition, rel=1e-13)


def test_pairs_across_at_the_authors_setting():
    assert round(pairs_across(256, 32)) == 6805
    assert pairs_across(256, 1) == pytest.approx(255, rel=1e-13)


@pytest.mark.parametrize(("n", "count", "own", "blocks"), [(256, 32, 32, 32), (196, 32, 24, 32), (256, 1, 32, 8), (256, 4, 32, 8), (9, 32, 1, 9)])
def test_sizes_are_the_authors_eighth_or_as_many_blocks_as_coalitions(n, count, own, blocks):
    assert round(SAMPLERS["distinct"].pairs(n, count, None)) == own * (n - own)
    assert SAMPLERS["authors"].pairs(n, count, None) == pairs_across(n, own)
    assert (drawn("distinct", n, count, None).sum(2) == own).all() and drawn("authors", n, count, None).sum(2).max() <= own
    for name in BLOCKS:
        A = drawn(name, n, count, None)
        assert A.shape[1] == count and set(A.sum(2).unique().tolist()) <= {n // blocks, -(-n // blocks)}
        if count == blocks:
            assert (A.sum(1) == 1).all()  # one whole round


@pytest.mark.parametrize("name", BLOCKS)
def test_a_round_of_the_authors_count_leaves_no_cell_out_of_a_grid_that_it_does_not_divide(name):
    assert (drawn(name, 196, 32, None).sum(1) == 1).all()
