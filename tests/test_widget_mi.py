"""The tables of the widget on momentum against ascent step by step, with vectors and matrices instead of modes."""

import math

import numpy as np
import pytest
import torch

from irlib import Quadratic
from irlib.amplification import amplification
from irlib.widgets.mi import momentum, momentum_tables, remembered_amplification
from tests.conftest import make_images, make_network


def climbed(g, H, beta, m, memory):
    """Steps along the weighted mean of a list of all gradients so far; Richardson's extrapolation stands for infinitely many."""
    if m == math.inf:
        return 2 * climbed(g, H, beta, 2**10, memory) - climbed(g, H, beta, 2**9, memory)
    delta, gradients = torch.zeros_like(g), torch.zeros(0, len(g), dtype=g.dtype)
    for t in range(m):
        gradients = torch.cat([gradients, (g + H @ delta)[None]])
        weights = memory ** torch.arange(t, -1, -1, dtype=g.dtype) if memory else torch.eye(t + 1, dtype=g.dtype)[t]
        delta = delta + beta / m * (weights @ gradients) / weights.sum()
    return delta


def test_the_tables_are_those_of_simulated_steps():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    strengths, numbers, memories = (0.3, 1.5), (1, 7, math.inf), (0.0, 0.6, 1.0)
    tables = momentum_tables(x, quadratics, strengths, numbers, memories)
    for i, q in enumerate(quadratics):
        H = q.modes @ q.eigenvalues.diag() @ q.modes.T
        for s, strength in enumerate(strengths):
            beta = strength / q.eigenvalues[0].item()
            for n, m in enumerate(numbers):
                plain = climbed(q.g, H, beta, m, 0.0)
                for k, memory in enumerate(memories):
                    delta = climbed(q.g, H, beta, m, memory)
                    bent, plain_bent = delta @ H @ delta, plain @ H @ plain
                    tolerance = 0.05 if m == math.inf and 0 < memory < 1 else 1e-4  # whose limit is approached from a memory of a few steps
                    expected = {
                        "first": delta @ q.modes[:, 0] / (beta * q.gamma[0]),
                        "length": 100 * delta.norm() / plain.norm(),
                        "same_beta": 100 * bent / plain_bent,
                        "same_length": 100 * bent / plain_bent * (plain @ plain) / (delta @ delta),
                    }
                    for name, value in expected.items():
                        assert tables[name].data[s, n, k, i] == pytest.approx(value.item(), rel=tolerance), (name, m, memory)
                    for name, curve in [("first", "first"), ("same_beta", "beta"), ("same_length", "length")]:
                        unit = 1 if name == "first" else 100
                        assert tables[f"{curve}_curve"].data[n, k, i, s] == pytest.approx(tables[name].data[s, n, k, i] / unit)
                    drawn = np.tensordot(tables["weights"].data[s, n, k, i], tables["modes"].data[i], 1)
                    np.testing.assert_allclose(drawn.ravel(), delta, atol=tolerance * float(delta.abs().max()))
                    share = (q.modes.T @ delta) / (q.modes.T @ plain)
                    np.testing.assert_allclose(tables["share"].data[s, n, k, i], share, rtol=20 * tolerance)
                drawn = np.tensordot(tables["plain_weights"].data[s, n, i], tables["modes"].data[i], 1)
                np.testing.assert_allclose(drawn.ravel(), plain, atol=1e-4 * float(plain.abs().max()))
                assert tables["plain_first"].data[s, n, i] == tables["first"].data[s, n, 0, i] == tables["plain_curve"].data[n, i, s]


def test_a_memory_below_one_forgets_in_the_limit_and_a_full_one_does_not():
    lam = torch.tensor([-1.0, 0.0, 0.5, 2.0])
    plain = amplification(lam, 1.0)
    coarse, fine = ((remembered_amplification(lam, 1.0, m, 0.8) - plain).abs().max() for m in (2000, 4000))
    assert coarse / fine == pytest.approx(2, rel=0.02)
    assert (remembered_amplification(lam, 1.0, math.inf, 0.8) == plain).all()
    assert (remembered_amplification(lam, 1.0, math.inf, 1.0) - plain).abs().max() > 0.5
    with pytest.raises(ValueError, match="memory must lie in"):
        remembered_amplification(lam, 1.0, 5, 1.5)


def test_the_sweep_compares_with_plain_ascent():
    sweep = momentum(make_network(), make_images(batch=2), torch.tensor([1, 3]), strengths=(0.5, 1.0))
    assert sweep.value == {"strength": 1.0, "number": 10, "memory": 1.0, "at": 0}
    for name in ("length", "same_beta", "same_length"):
        assert sweep.said(name, memory=0.0) == "100 %"
        assert float(sweep.at(name, strength=1.0, number=10, memory=1.0, at=0)) < 100
    sweep.move(strength=0.8, memory=0.7)
    assert sweep.value["memory"] == 0.7
