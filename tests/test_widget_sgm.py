"""The tables of the chapter on SGM, against backward passes with detached branches and steps taken one by one."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import Quadratic, create_attack
from irlib.surgery import outputs, residual_branches
from irlib.widgets.sgm import KEPT, STEPS, Place, damped_gradients, path_gradients, sgm, sgm_tables, tilted, tilting
from tests.conftest import make_images, make_resnet

GAMMA, STRENGTH = 0.3, 0.7


@pytest.fixture
def here():
    network, x = make_resnet(), make_images(batch=1)
    return network, x, network(x).argmax(1)


def rows(network, x, change):
    """(classes, n): the logits' gradients while each branch's output passes through its change."""
    branches = residual_branches(network).values()
    with outputs(dict(zip(branches, change, strict=True))):
        return torch.autograd.functional.jacobian(lambda v: network(v)[0], x).flatten(1)


def let(through):
    """Forward as it is; going back, that share."""
    return lambda out: through * out + (1 - through) * out.detach()


def test_the_damped_gradients_are_those_of_a_mixture_with_detached_branches(here):
    network, x, _ = here
    z, found = damped_gradients(network, x, GAMMA)
    expected = rows(network, x, [let(GAMMA)] * 2)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(z[0], network(x)[0])
    assert (expected - rows(network, x, [let(1.0)] * 2)).norm() > 0.1 * expected.norm()


def test_the_paths_are_those_that_detaching_leaves(here):
    network, x, _ = here
    left = {kept: rows(network, x, [let(k) for k in kept]) for kept in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))}
    none, first, second, both = left.values()
    expected = torch.stack([none, first + second - 2 * none, both - first - second + none])
    torch.testing.assert_close(path_gradients(network, x)[1][:, 0], expected, rtol=1e-9, atol=1e-12)


def explicit(network, x, y, gamma, beta):
    """g, H, g_γ and H_γ with nothing but autograd, and the ten steps δ ← δ + α(g_γ + H_γδ)."""
    z = network(x)[0].detach()
    loss = lambda v: F.cross_entropy(v[None], y)
    a, P = torch.autograd.functional.jacobian(loss, z), torch.autograd.functional.hessian(loss, z)
    W, D = rows(network, x, [let(1.0)] * 2), rows(network, x, [let(gamma)] * 2)
    g, H, damped, field = W.T @ a, W.T @ P @ W, D.T @ a, D.T @ P @ W
    delta = torch.zeros_like(g)
    for _ in range(STEPS):
        delta = delta + beta / STEPS * (damped + field @ delta)
    return g, H, damped, delta


def test_the_tables_are_steps_taken_one_by_one(here):
    network, x, y = here
    kept, strength = [0.0, GAMMA, 1.0], [0.2, STRENGTH]
    tables = sgm_tables([[Place(network, x, y)]], x, kept, strength)
    at = {name: table.data[..., 0, 0] for name, table in tables.items() if table.over[-2:] == ("net", "photo")}
    g, H, _, _ = explicit(network, x, y, 1.0, 1.0)
    modes = torch.linalg.eigh(H)
    beta = STRENGTH / modes.eigenvalues[-1].item()
    curved = lambda d: (d @ H @ d / (d @ d)).item()
    plain = explicit(network, x, y, 1.0, beta)[3]
    for i, gamma in enumerate(kept):
        damped = explicit(network, x, y, gamma, 1.0)[2]
        ten = explicit(network, x, y, gamma, beta * float(g.norm() / damped.norm()))[3]
        cosine = (g @ damped / (g.norm() * damped.norm())).item()
        expected = {
            "angle": math.degrees(math.acos(min(1.0, cosine))),
            "length": 100 * (damped.norm() / g.norm()).item(),
            "same_beta": 100 * (damped @ H @ damped / (g @ H @ g)).item(),
            "single": 100 * curved(damped) / curved(g),
        }
        for name, value in expected.items():
            assert at[name][i] == pytest.approx(value, rel=1e-7, abs=2e-6), name
        assert tables["many"].data[1, i, 0, 0] == pytest.approx(100 * curved(ten) / curved(plain), rel=1e-7)
        shares = ((modes.eigenvectors.T @ damped).flip(0)[:4] ** 2 / (damped @ damped)).numpy()
        np.testing.assert_allclose(at_entry(tables, "shares", i)[:4], shares, atol=1e-9)
        assert at["out"][i] == pytest.approx(100 * (1 - shares.sum()), abs=1e-6)
        assert at_entry(tables, "paths", i).sum() == pytest.approx(cosine, abs=1e-9)
        drawn = tables["damped"].data[i, 0, 0] / 127 * tables["damped_scale"].data[i, 0, 0]
        np.testing.assert_allclose(drawn.ravel(), (damped / damped.norm()).numpy(), atol=float(damped.abs().max() / damped.norm()) / 250)
    assert tables["single_curve"].data[0, 0, 3] * 100 == pytest.approx(at["single"][1], rel=1e-9)
    assert KEPT[3] == GAMMA
    np.testing.assert_allclose(tables["many_curve"].data[1, 0, 0, [0, 3, 10]] * 100, tables["many"].data[1, :, 0, 0], rtol=1e-9)


def at_entry(tables, name, i):
    return tables[name].data[i, 0, 0]


def test_with_all_of_the_branches_it_is_plain(here):
    network, x, y = here
    place = Place(network, x, y)
    torch.testing.assert_close(place.climb(1.0, 0.5, 7), place.q.multi_step(0.5 / 7, 7), rtol=1e-8, atol=1e-12)


def test_a_tilts_mean_is_the_mean_over_an_orthonormal_basis_of_sides():
    g = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    A = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q, cosine = Quadratic(g, A @ A.T), torch.tensor(0.6, dtype=torch.float64)
    basis = torch.linalg.svd(g[None])[2][1:]
    each = [sign * 0.8 * side + 0.6 * g / g.norm() for side in basis for sign in (1, -1)]
    mean = torch.stack([d @ A @ A.T @ d for d in each]).mean() / (g @ A @ A.T @ g / (g @ g))
    assert float(tilted(cosine, q)) == pytest.approx(float(mean), rel=1e-12)


def test_a_tilted_attack_keeps_its_angle_and_turns_to_its_side(here):
    network, x, y = here
    plain = create_attack("pgd", network, norm="none", alpha=0.01, steps=1)
    side = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    g, d = (attack.run(x, y).delta.flatten() for attack in (plain, tilting(plain, torch.tensor(0.25), side)))
    g = g / g.norm()
    assert float(g @ d) / float(d.norm()) == pytest.approx(0.25, rel=1e-6)
    off = d - (g @ d) * g
    assert float(F.cosine_similarity(off, side.flatten() - (g @ side.flatten()) * g, dim=0)) == pytest.approx(1, rel=1e-6)


def test_the_sweep_starts_at_the_published_value_and_takes_values_between_stops(here):
    network, x, y = here
    sweep = sgm({"tiny": network}, x, y)
    assert sweep.value["kept"] == 0.2
    sweep.move(kept=0.25)
    assert sweep.value["kept"] == 0.25
