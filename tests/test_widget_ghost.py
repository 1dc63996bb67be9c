"""The tables of the chapter on GhostNet, against erosion written out and means taken one by one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import Quadratic, create_attack
from irlib.draws import Draws
from irlib.widgets.ghost import AVERAGED, DRAWN, ghost, ghost_tables, ghosts, places, spread, tilting_anew
from tests.conftest import make_images, make_resnet

RANGE, DROPOUT = 0.3, 0.1


@pytest.fixture
def here():
    network, x = make_resnet(), make_images(batch=2)
    return network, x, network(x).argmax(1)


def eroded(network, x, factors, masks):
    """A TinyResNet's logits with its two shortcuts multiplied, channel by channel, and its two blocks' outputs masked."""
    h = network.relu(network.bn(network.conv(x)))
    for block, factor, mask in zip((network.one, network.two), factors, masks, strict=True):
        shortcut = h if block.downsample is None else block.downsample(h)
        branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(h)))))
        h = block.relu(factor * shortcut + branch) * mask
    return network.fc(h.flatten(1))


def test_a_ghost_is_an_eroded_network(here):
    network, x, y = here
    found = ghosts(network, x, y, 3, skip_range=RANGE, dropout=DROPOUT)
    for seed in range(3):
        draws = Draws(x, seed)  # in the order in which a pass meets them
        factors, masks = [], []
        for channels, side in ((4, 6), (6, 3)):
            factors.append(1 + RANGE * (2 * draws.uniform(channels, 1, 1) - 1))
            masks.append((draws.uniform(channels, side, side) >= DROPOUT) / (1 - DROPOUT))
        at = x.clone().requires_grad_()
        z = eroded(network, at, factors, masks)
        g = torch.autograd.grad(F.cross_entropy(z, y, reduction="sum"), at)[0].flatten(1)
        torch.testing.assert_close(found.z[seed], z.detach())
        torch.testing.assert_close(found.g[seed], g)
    assert (found.z[0] - found.z[1]).abs().max() > 1e-3


def curved(H, d):
    return float(d @ H @ d / (d @ d))


def test_the_tables_are_means_taken_one_by_one(here):
    network, x, y = here
    skip, drop, averaged = [0.0, RANGE], [0.0, DROPOUT], [1, 4]
    tables = ghost_tables(network, x, y, places(network, x, y), skip, drop, averaged)
    found = ghosts(network, x, y, DRAWN, skip_range=RANGE, dropout=DROPOUT)
    for i in range(2):
        at = x[i : i + 1].clone().requires_grad_()
        loss = F.cross_entropy(network(at), y[i : i + 1])
        g = torch.autograd.grad(loss, at)[0].flatten()
        q = Quadratic.at(network, x[i : i + 1], y[i : i + 1])
        H = q.modes @ torch.diag(q.eigenvalues) @ q.modes.T
        W = torch.autograd.functional.jacobian(lambda v: network(v)[0], x[i : i + 1]).flatten(1)
        onehot = F.one_hot(y[i], 5).double()
        for j, k in enumerate(averaged):
            expected = {"angle": [], "kept": [], "predicted": [], "ghost_rivals": []}
            for first in range(0, DRAWN, k):
                mean = sum(found.g[t, i] for t in range(first, first + k)) / k
                p = sum(found.z[t, i].softmax(0) for t in range(first, first + k)) / k
                wrong = p * (1 - onehot)
                expected["angle"].append(math.degrees(math.acos(float(mean @ g / (mean.norm() * g.norm())))))
                expected["kept"].append(100 * curved(H, mean) / curved(H, g))
                expected["predicted"].append(100 * curved(H, (p - onehot) @ W) / curved(H, g))
                expected["ghost_rivals"].append(float(wrong.sum() ** 2 / (wrong**2).sum()))
                if first == 0:
                    np.testing.assert_allclose(tables["ghost_shares"].data[1, 1, j, i], wrong / wrong.sum(), rtol=1e-9)
                    drawn = tables["mean"].data[1, 1, j, i] / 127 * tables["mean_scale"].data[1, 1, j, i]
                    np.testing.assert_allclose(drawn.ravel(), mean / mean.norm(), atol=float((mean / mean.norm()).abs().max()) / 250)
            for name, values in expected.items():
                assert tables[name].data[1, 1, j, i] == pytest.approx(np.mean(values), rel=1e-6, abs=1e-3), name
            assert tables["kept_curve"].data[1, 1, i, AVERAGED.index(k)] == pytest.approx(np.mean(expected["kept"]) / 100, rel=1e-6)
    np.testing.assert_allclose(tables["kept"].data[0, 0], 100, rtol=1e-9)
    np.testing.assert_allclose(tables["predicted"].data[0, 0], 100, rtol=1e-9)
    np.testing.assert_allclose(tables["noise"].data[0, 0], 0, atol=1e-6)


def test_the_spread_is_that_of_the_sample_covariance():
    g, A = (torch.randn(7, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))
    H, q = A.T @ A, Quadratic(g.mean(0), A.T @ A)
    covariance, mean = torch.from_numpy(np.cov(g.T.numpy())), g.mean(0)
    noise, flat = spread(g, q)
    assert float(noise) == pytest.approx(math.sqrt(float(covariance.trace())) / float(mean.norm()))
    assert float(flat) == pytest.approx(float((H * covariance).sum() / covariance.trace() / (mean @ H @ mean / (mean @ mean))))
    with pytest.raises(ValueError, match="at least two draws, got 1"):
        spread(g[:1], q)


def test_a_tilted_attack_keeps_its_angle_and_turns_elsewhere_at_every_step(here):
    network, x, y = here
    plain = create_attack("pgd", network, norm="none", alpha=1e-6, steps=2)
    run = tilting_anew(plain, torch.tensor(0.25)).run(x, y, record=True)
    g = create_attack("pgd", network, norm="none", alpha=1.0, steps=1).run(x, y).delta.flatten(1)
    steps = [(b - a).flatten(1) for a, b in zip(run.deltas[:-1], run.deltas[1:], strict=True)]
    for step in steps:
        torch.testing.assert_close(F.cosine_similarity(step, g), torch.full((2,), 0.25).double(), rtol=1e-4, atol=1e-4)
    assert (F.cosine_similarity(*steps) < 0.9).all()


def test_the_sweep_starts_at_the_published_range_and_takes_values_between_stops(here):
    network, x, y = here
    sweep = ghost(network, x[:1], y[:1])
    assert sweep.value == {"skip": 0.22, "drop": 0.0, "averaged": 1, "photo": 0}
    sweep.move(skip=0.3)
    assert sweep.value["skip"] == 0.3
