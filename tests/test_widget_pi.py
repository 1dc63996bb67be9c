"""The tables of PI's theory widget against matrices written entry by entry and simulated steps."""

import math

import numpy as np
import pytest
import torch

from irlib import Quadratic
from irlib.widgets.pi import FIRST, beyond, pi_tables, pi_theory, shares
from tests.conftest import make_images, make_network


def by_entries(tau):
    """Eq. 15 with eight neighbours, entry by entry; what would leave the image is lost."""
    h, w = tau.shape
    A = np.zeros((h * w, h * w))
    for r in range(h):
        for c in range(w):
            for i in range(h):
                for j in range(w):
                    near = max(abs(r - i), abs(c - j))
                    A[i * w + j, r * w + c] = (1 - tau[r, c]) if near == 0 else tau[r, c] / 8 if near == 1 else 0
    return A


def climbed(g, H, stages, m):
    delta = np.zeros_like(g)
    for beta, A in stages:
        for _ in range(m):
            delta = delta + beta / m * A @ (g + H @ delta)
    return delta


@pytest.mark.parametrize("shape", [(3, 3), (4, 6)])
def test_the_matrix_is_eq_15(shape):
    tau = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(shares(tau), by_entries(tau.numpy()), atol=1e-15)
    inside = shares(tau).sum(0).view(shape)[1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.ones_like(inside))  # away from the edge nothing is lost


def test_who_is_beyond():
    v = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).cumsum(0)
    largest, some, gaining = (beyond(v, which, 0.25) for which in range(3))
    assert largest.sum() == some.sum() == gaining.sum() == 9
    assert v.abs()[largest == 1].min() >= v.abs()[largest == 0].max()
    assert not torch.equal(largest, some)
    bend = lambda tau: float(v.flatten() @ shares(tau) @ v.flatten())
    generator = torch.Generator().manual_seed(2)
    rivals = [torch.zeros(36, dtype=torch.float64).index_fill_(0, torch.randperm(36, generator=generator)[:9], 1).view(6, 6) for _ in range(200)]
    assert bend(gaining) > max(map(bend, [largest, some, *rivals]))


def test_the_tables_are_those_of_simulated_steps():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    who, excess, second = (0, 1, 2), (0.1, 0.5), (0.25, 1.0)
    tables = pi_tables(quadratics, x.shape[-2:], who, excess, second)
    for b, q in enumerate(quadratics):
        lam, v = q.eigenvalues[0].item(), q.modes[:, 0].numpy()
        H, g, eye = (q.modes @ q.eigenvalues.diag() @ q.modes.T).numpy(), q.g.numpy(), np.eye(36)
        for w in who:
            for e, share in enumerate(excess):
                tau = beyond(torch.tensor(v).view(6, 6), w, share).numpy()
                A = by_entries(tau)
                a = v @ A @ v
                assert tables["bend"].data[w, e, b] == pytest.approx(a, abs=1e-12)
                assert tables["bend_curve"].data[w, b, e] == tables["bend"].data[w, e, b]
                everywhere = np.diag(1 - tau.ravel()) + np.outer(np.full(36, 1 / 36), tau.ravel())  # Assumption 5: a neighbourhood is the image
                assert tables["assumed"].data[w, e, b] == pytest.approx(v @ everywhere @ v, abs=1e-12)
                frames = tables["pi_spread"].data[w, e, b] * tables["pi_spread_scale"].data[w, e, b] / 127
                np.testing.assert_allclose(frames.ravel(), A @ v, atol=np.abs(A @ v).max() / 250)
                for k, s in enumerate(second):
                    limit = lambda start, curve, stages: 2 * climbed(start, curve, stages, 2000) - climbed(start, curve, stages, 1000)
                    pi = limit(g, H, [(FIRST / lam, eye), (s / lam, A)])
                    plain = limit(g, H, [((FIRST + s) / lam, eye)])
                    one_pi = limit(v, lam * np.outer(v, v), [(FIRST / lam, eye), (s / lam, A)])
                    ratio, length = (pi @ H @ pi) / (plain @ H @ plain), np.linalg.norm(pi) / np.linalg.norm(plain)
                    expected = {
                        "one_mode": (v @ one_pi) ** 2 / (math.expm1(FIRST + s) / lam) ** 2,
                        "all_modes": ratio,
                        "length": length,
                        "same_length": ratio / length**2,
                    }
                    for name, value in expected.items():
                        assert tables[name].data[w, e, k, b] == pytest.approx(100 * value, rel=1e-4), name
                    assert tables["all_modes_curve"].data[w, e, b, k] == tables["all_modes"].data[w, e, k, b]


def test_the_sweep_has_a_bowl_for_each_network_and_image():
    networks = {"one": make_network(), "other": make_network(classes=4)}
    x, y = make_images(batch=2), torch.tensor([1, 3])
    sweep = pi_theory(networks, x, y, excess=(0.1, 0.5), second=(0.5, 1.0))
    assert sweep.spec["params"][3]["texts"] == ["one, trouser", "one, dress", "other, trouser", "other, dress"]
    q = Quadratic.at(networks["other"], x[:1], y[:1])
    v = q.modes[:, 0]
    A = torch.tensor(by_entries(beyond(v.view(6, 6), 0, 0.5).numpy()))
    assert sweep.at("bend", who=0, excess=0.5, bowl=2) == pytest.approx(float(v @ A @ v))
