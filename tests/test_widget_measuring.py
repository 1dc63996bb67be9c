"""The tables of the chapter on measuring, against plain loops and against what the samplers promise."""

import itertools

import numpy as np
import pytest
import torch

from irlib import AttackGame, total_interaction
from irlib.samplers import pairs_across
from irlib.widgets.measuring import contrasts, measuring, pool, resampled, sampler_tables
from tests.conftest import make_images, make_network

CELLS, DRAWS = (1, 2, 8), (4, 8)
SAMPLERS = ("authors", "distinct", "partition", "stratified")


@pytest.fixture(scope="module")
def game():
    x = make_images(batch=2)
    delta = 0.4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return AttackGame(make_network(classes=4), x, delta, torch.tensor([1, 3]), grid=4)


def contrast(game, cells):
    inside = torch.zeros(1, game.n, dtype=torch.bool)
    inside[0, list(cells)] = True
    full = torch.ones_like(inside)
    return (game(full) - game(~inside) - game(inside))[:, 0]


def test_contrasts_are_the_four_terms_of_each_coalition(game):
    pools = [pool(game, "stratified", 4, 8, 3), pool(game, "authors", 3, 5)]
    assert [tuple(p.shape) for p in pools] == [(3, 4, 16), (10, 1, 16)]
    for found, coalitions in zip(contrasts(game, pools), pools, strict=True):
        assert found.shape == (2, *coalitions.shape[:2])
        for r, b in itertools.product(*map(range, coalitions.shape[:2])):
            torch.testing.assert_close(found[:, r, b], contrast(game, coalitions[r, b].nonzero()[:, 0].tolist()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_pool_has_the_coalitions_of_its_sampler(game, sampler):
    found = pool(game, sampler, 4)
    sizes = found.sum(2)
    if sampler == "authors":
        assert found.shape[1] == 1
        assert sizes.max() <= 4
        assert sizes.min() < 4  # cells drawn twice
    else:
        assert (sizes == 4).all()
        whole = found.view(-1, 4, 16)  # four blocks a round, and each cell in one of them
        assert (whole.sum(1) == 1).all()
        assert found.shape[1] == (1 if sampler == "distinct" else 4)
    if sampler == "stratified":  # one cell of each quarter of the grid
        quarters = found.view(-1, 2, 2, 2, 2).sum((2, 4))
        assert (quarters == 1).all()
    assert torch.equal(pool(game, sampler, 1).flatten(0, 1).sum(1).unique(), torch.tensor([1]))


def test_resampled_estimates_take_whole_rounds_and_part_of_the_last():
    each = torch.tensor([[[1.0, 2.0, 4.0, 8.0], [16.0, 32.0, 64.0, 128.0]]], dtype=torch.float64)
    rounds = {15.0, 240.0}
    two = resampled(each, 8, 60)[0] * 8
    assert set(two.tolist()) == {sum(pair) for pair in itertools.product(rounds, repeat=2)}
    one = resampled(each, 2, 400)[0] * 2  # two different blocks of one round
    assert set(one.tolist()) == {a + b for block in each[0].tolist() for a, b in itertools.combinations(block, 2)}
    six = resampled(each, 6, 400)[0] * 6
    assert set(six.tolist()) == {whole + part for whole in rounds for part in one.tolist()}


def test_the_tables_are_plain_loops(game):
    tables = {name: table.data for name, table in sampler_tables([game], SAMPLERS, CELLS, DRAWS).items()}
    exact = total_interaction(game) / (16 * 15)
    np.testing.assert_allclose(tables["exact"][0], exact)
    for s, sampler in enumerate(SAMPLERS):
        for c, k in enumerate(CELLS):
            pairs = 240 * ((15 / 16) ** k - (14 / 16) ** k) if sampler == "authors" else k * (16 - k)
            assert tables["pairs"][s, c] == pytest.approx(pairs)
            coalitions = pool(game, sampler, k)
            rounds = []
            for one in coalitions:
                found = [contrast(game, row.nonzero()[:, 0].tolist()) / pairs / exact for row in one]
                rounds.append(torch.stack(found).mean(0))
            rounds = torch.stack(rounds)
            np.testing.assert_allclose(tables["average"][0, :, s, c], rounds.mean(0))
            np.testing.assert_allclose(tables["average_error"][0, :, s, c], 100 * rounds.std(0) / len(rounds) ** 0.5, atol=1e-9)
            if k == 8 and sampler in ("partition", "stratified"):  # two blocks a round, one the complement of the other: rounds are independent
                for d, count in enumerate(DRAWS):
                    expected = 100 * rounds.std(0, correction=0) / (count / 2) ** 0.5
                    np.testing.assert_allclose(tables["error"][0, :, s, c, d], expected, rtol=0.15)
            if sampler in ("authors", "distinct"):
                for d, count in enumerate(DRAWS):
                    np.testing.assert_allclose(tables["error"][0, :, s, c, d], 100 * rounds.std(0, correction=0) / count**0.5, rtol=0.15)
    np.testing.assert_allclose(tables["average"][:, :, 1:, 0], 1)  # single cells, each once a round: Eq. 12
    np.testing.assert_array_equal(tables["forwards"], [10, 18])
    assert (np.diff(tables["seeds"], axis=-1) >= 0).all()
    assert tables["seeds"].min() >= 0
    assert tables["seeds"].max() <= 2
    for sign, name in ((1, "high"), (-1, "low"), (0, "average")):
        expected = tables["average"][..., None] + sign * tables["error"] / 100
        np.testing.assert_allclose(np.moveaxis(tables[f"{name}_curve"], -1, -2), expected)


def test_the_sweep_starts_at_the_authors_sampler():
    models = {"first": make_network(classes=4, size=8).float(), "second": make_network(1, classes=4, size=8).float()}
    sweep = measuring(models, make_images(batch=2, size=8).float(), torch.tensor([1, 3]), grid=8)
    assert sweep.value == {"network": 1, "image": 0, "sampler": 0, "cells": 8, "draws": 32}
    assert sweep.said("forwards") == "66"
    assert float(sweep.at("pairs", sampler=0, cells=8)) == pytest.approx(pairs_across(64, 8))
    part = sweep.at("part", network=1, image=0, sampler=1, cells=4)
    assert part.shape == (8, 8)
    assert (part != 0).sum() <= 4
