"""The tables of the chapter on VR, against plain loops, autograd's Hessian and simulation; and its two statements on random cases."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import create_attack
from irlib.balance import kappa, noisy
from irlib.widgets.vr import WAYS, bowls, combined, linear_mean, mean_gradient, mean_prediction, pairs, vr_tables, vr_theory
from tests.conftest import make_images, make_network


def gradient(network, flat, label):
    loss = lambda v: F.cross_entropy(network(v.view(1, 1, 6, 6)), torch.tensor([label]))
    return torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)


def hill(shares):
    return 1 / sum(v**2 for v in shares)


def test_noise_comes_in_pairs():
    noise = pairs(6, 2, 3, seed=4)
    assert noise.shape == (6, 2, 3)
    torch.testing.assert_close(noise[:3], -noise[3:])
    assert not torch.equal(noise, pairs(6, 2, 3, seed=5))
    with pytest.raises(ValueError, match="draws"):
        pairs(1, 3)


def test_means_under_noise_are_plain_loops():
    network, x, y = make_network(0), make_images(batch=2), torch.tensor([1, 3])
    noise = 0.2 * pairs(4, 1, 6, 6)
    q, g = mean_gradient(network, x, y, noise)
    for i in range(2):
        copies = [(x[i : i + 1] + e[None].to(x)) for e in noise]
        predictions = torch.stack([network(v)[0].softmax(0) for v in copies]).mean(0)
        gradients = torch.stack([gradient(network, v.flatten(), int(y[i]))[0] for v in copies]).mean(0)
        np.testing.assert_allclose(q[i], predictions.detach(), rtol=1e-9)
        np.testing.assert_allclose(g[i], gradients, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(mean_prediction(network, x, noise), q)


def test_the_attacks_single_raw_step_goes_along_the_mean_gradient():
    network, x, y = make_network(0), make_images(batch=1), torch.tensor([1])
    run = create_attack("vr", network, norm="none", alpha=1.0, steps=1, sigma=0.05, samples=4000).run(x, y)
    g = mean_gradient(network, x, y, 0.05 * pairs(4000, 1, 6, 6))[1][0]
    assert float(F.cosine_similarity(run.delta.flatten().double(), g, dim=0)) > 0.999
    assert float(run.delta.double().norm() / g.norm()) == pytest.approx(1, abs=0.02)


def test_the_linear_mean_is_softmax_of_a_noisy_linear_network():
    rng = torch.Generator().manual_seed(0)
    W, z, sigma = torch.randn(4, 30, generator=rng, dtype=torch.float64), torch.randn(4, generator=rng, dtype=torch.float64), 0.3
    simulated = (z + sigma * torch.randn(400_000, 30, generator=rng, dtype=torch.float64) @ W.T).softmax(1).mean(0)
    found = linear_mean(z.softmax(0), W @ W.T, sigma, pairs(200_000, 4))
    np.testing.assert_allclose(found, simulated, atol=3e-3)


def test_bowls_and_combinations_are_autograds_hessian():
    network, x, y = make_network(1), make_images(batch=1), torch.tensor([2])
    bowl = bowls(network, x, y)[0]
    g, H = gradient(network, x.flatten(), 2)
    other = torch.randn(36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert bowl.interaction(other) == pytest.approx((other @ H @ other).item())
    q = torch.tensor([0.1, 0.2, 0.3, 0.25, 0.15]).double()
    rows = torch.stack([torch.autograd.functional.jacobian(lambda v: network(v)[0, k], x).flatten() for k in range(5)])  # noqa: B023
    averaged = (q - F.one_hot(y[0], 5)) @ rows
    np.testing.assert_allclose(combined(bowl.gram, bowl.p, q, 2), [(averaged @ H @ averaged).item(), (averaged @ averaged).item()])
    np.testing.assert_allclose(combined(bowl.gram, bowl.p, bowl.p, 2), [(g @ H @ g).item(), (g @ g).item()])


def test_the_widgets_tables():
    networks, x, y = [make_network(0), make_network(1)], make_images(batch=2), torch.tensor([1, 3])
    tables = vr_tables(networks, [bowls(m, x, y) for m in networks], x, y, [3.0, 40.0], 6)
    normals, pixels = pairs(4096, 5, seed=1), pairs(6, 1, 6, 6)
    for j, network in enumerate(networks):
        for i in range(2):
            g, H = gradient(network, x[i].flatten(), int(y[i]))
            bowl = bowls(network, x[i : i + 1], y[i : i + 1])[0]
            others = [k for k in range(5) if k != y[i]]
            for s, level in enumerate((3.0, 40.0)):
                sigma, scale = level / 255, float(kappa(bowl.gram))
                q, averaged = (v[0] for v in mean_gradient(network, x[i : i + 1], y[i : i + 1], sigma * pixels))
                by_formula = linear_mean(bowl.p, bowl.gram, sigma, normals)
                ideal = linear_mean(bowl.p, scale * torch.eye(5).double(), sigma, normals)
                ways = [bowl.p, noisy(bowl.p, sigma * math.sqrt(scale)), ideal, by_formula, q]
                for k, way in enumerate(ways):
                    shown = tables["shares"].data[s, j, i, :, k]
                    np.testing.assert_allclose(shown[others], way[others] / way[others].sum())
                    assert shown[int(y[i])] == 0
                    assert tables["true_class"].data[s, j, i, k] == pytest.approx(way[y[i]].item())
                assert tables["rivals_network"].data[j, i, s] == pytest.approx(hill((q[others] / q[others].sum()).tolist()))
                assert tables["rivals_shown"].data[s, j, i] == tables["rivals_network"].data[j, i, s]
                ratio = (averaged @ H @ averaged) / (g @ H @ g)
                assert tables["length_network"].data[j, i, s] == pytest.approx((ratio * (g @ g) / (averaged @ averaged)).item())
                assert tables["length_shown"].data[s, j, i] == pytest.approx(100 * tables["length_network"].data[j, i, s])
                strength = ratio * ((1 - bowl.p[y[i]]) / (1 - q[y[i]])) ** 2
                assert tables["strength_network"].data[j, i, s] == pytest.approx(strength.item())
                a = by_formula - F.one_hot(y[i], 5)
                rows = torch.stack([torch.autograd.functional.jacobian(lambda v: network(v)[0, k], x[i : i + 1]).flatten() for k in range(5)])  # noqa: B023
                linear = a @ rows
                expected = (linear @ H @ linear) / (linear @ linear) / (g @ H @ g) * (g @ g)
                assert tables["length_own"].data[j, i, s] == pytest.approx(expected.item())
                assert tables["tau"].data[s, j, i] == pytest.approx(sigma * math.sqrt(scale))


def test_the_widget_starts_and_speaks():
    x, y = make_images(batch=2), torch.tensor([1, 3])
    with pytest.raises(ValueError, match="heat"):  # it is made for the ten classes of Fashion-MNIST
        vr_theory({"a": make_network(0)}, x, y, draws=4)
    assert len(WAYS) == 5
