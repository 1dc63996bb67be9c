"""The chapter's widget: its tables against autograd's Hessian, hand-written ascent and plain sums."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import Quadratic
from irlib.widgets.adversarial_training import adversarial_training, trained_tables
from tests.conftest import make_images, make_network

Y = torch.tensor([1, 3])


@pytest.fixture(scope="module")
def networks():
    return {0: make_network(0), 2: make_network(1), 8: make_network(2)}


def tables(networks, trained, strength, example):
    x = make_images(batch=2)
    quadratics = {k: [Quadratic.at(m, x[i : i + 1], Y[i : i + 1]) for i in range(2)] for k, m in networks.items()}
    return trained_tables(quadratics, {k: m(x).softmax(1).detach() for k, m in networks.items()}, x, Y, trained, strength, example)


def test_every_number_is_that_of_plain_loops(networks):
    strengths, x = (0.05, 0.3), make_images(batch=2)
    found = tables(networks, [0, 2, 8], strengths, [0, 1])
    for i in range(2):
        slopes, curvatures, doubts = [], [], []
        for model in networks.values():
            loss = lambda flat, model=model: F.cross_entropy(model(flat.view(1, 1, 6, 6)), Y[i : i + 1])  # noqa: B023
            slopes.append(torch.autograd.functional.jacobian(loss, x[i].flatten()))
            curvatures.append(torch.autograd.functional.hessian(loss, x[i].flatten()))
            p = model(x[i : i + 1]).softmax(1)[0].detach()
            doubts.append(sum(float(p[k]) for k in range(5) if k != Y[i]))
        steepest = max(float(torch.linalg.eigvalsh(H)[-1]) for H in curvatures)
        for s, strength in enumerate(strengths):
            bends, norms = [], []
            for k, (g, H) in enumerate(zip(slopes, curvatures, strict=True)):
                flow = torch.zeros(37, 37, dtype=torch.float64)
                flow[:36, :36], flow[:36, 36] = H, g
                delta = torch.linalg.matrix_exp(strength / steepest * flow)[:36, 36]
                bends.append(float(delta @ H @ delta)), norms.append(float(delta.norm()))
                assert found["bend"].data[k, s, i] == pytest.approx(bends[k], rel=1e-8)
                assert found["norm"].data[k, s, i] == pytest.approx(norms[k], rel=1e-8)
                assert found["by_beta"].data[k, s, i] == pytest.approx(100 * bends[k] / bends[0], rel=1e-8)
                assert found["by_length"].data[k, s, i] == pytest.approx(100 * bends[k] / bends[0] * (norms[0] / norms[k]) ** 2, rel=1e-8)
                assert 10 ** found["beta_curve"].data[s, i, k] == pytest.approx(bends[k] / bends[0], rel=1e-8)
                drawn = found["trained_delta"].data[k, s, i] / 127 * found["trained_delta_scale"].data[k, s, i]
                np.testing.assert_allclose(drawn.ravel(), delta.numpy(), atol=float(delta.abs().max()) / 250)
        for k, (g, H) in enumerate(zip(slopes, curvatures, strict=True)):
            assert found["doubt"].data[k, i] == pytest.approx(doubts[k], rel=1e-9)
            assert found["slope"].data[k, i] == pytest.approx(float(g.norm()), rel=1e-8)
            assert found["first"].data[k, i] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-8)
            np.testing.assert_allclose(10.0 ** found["spectrum"].data[k, i][:4], torch.linalg.eigvalsh(H).flip(0)[:4], rtol=1e-6, atol=1e-12)
            assert (found["spectrum"].data[k, i][4:] == -12).all()


def test_the_trace_is_doubt_times_steepness_less_the_squared_slope(networks):
    """U by its definition, from the class gradients that automatic differentiation gives."""
    x, found = make_images(batch=2), tables(networks, [0, 2, 8], [0.1], [0, 1])
    for k, model in enumerate(networks.values()):
        for i in range(2):
            W = torch.autograd.functional.jacobian(lambda flat, model=model: model(flat.view(1, 1, 6, 6))[0], x[i].flatten())
            p, y = model(x[i : i + 1]).softmax(1)[0].detach(), Y[i]
            U = sum(p[c] * (W[c] - W[y]).square().sum() for c in range(5) if c != y) / (1 - p[y])
            assert found["steepness"].data[k, i] == pytest.approx(float(U), rel=1e-8)


def test_a_single_point_is_the_grids(networks):
    """What the kernel computes between the stops: relative numbers need the plain network although it is not asked for."""
    grid, point = tables(networks, [0, 2, 8], (0.05, 0.3), [0, 1]), tables(networks, [2], (0.3,), [1])
    for name in ("bend", "by_beta", "by_length"):
        assert point[name].data[0, 0, 0] == pytest.approx(grid[name].data[1, 1, 1], rel=1e-12)
    np.testing.assert_allclose(point["length_curve"].data[0, 0], grid["length_curve"].data[1, 1], rtol=1e-12)


def test_the_widget_starts_at_the_strongest_training(networks):
    sweep = adversarial_training({k: m.float() for k, m in networks.items()}, make_images(batch=2).float(), Y)
    assert sweep.value == {"trained": 8, "strength": 1.0, "example": 0}
    assert sweep.said("by_beta", trained=0) == sweep.said("by_length", trained=0) == "100\u00a0%"
