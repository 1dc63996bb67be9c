"""The chapter's widget: its tables against autograd's Hessians of three losses, and a matrix exponential."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib.widgets.fd import LOSSES, OwnQuestion, bowls, fd, fd_tables
from tests.conftest import make_images, make_network

Y = torch.tensor([1, 3])


@pytest.fixture(scope="module")
def pairs():
    return [(make_network(0), make_network(1)), (make_network(2), make_network(3))]


def of(loss, x):
    """Gradient and Hessian of ``loss`` at the flattened image."""
    flat = x.flatten()
    return torch.autograd.functional.jacobian(loss, flat), torch.autograd.functional.hessian(loss, flat)


def test_an_own_question_is_a_binary_cross_entropy():
    heads, x = make_network(1), make_images(batch=3)
    own = OwnQuestion(heads, 2).eval()
    z = heads(x)[:, 2]
    torch.testing.assert_close(F.cross_entropy(own(x), torch.zeros(3, dtype=torch.long), reduction="none"), -F.logsigmoid(z))
    torch.testing.assert_close(F.cross_entropy(own(x), torch.ones(3, dtype=torch.long), reduction="none"), -F.logsigmoid(-z))
    assert not own.training


def test_every_number_is_that_of_plain_loops(pairs):
    x, strengths = make_images(batch=2), (0.1, 0.5)
    found = [[bowls(deep, heads, x[i : i + 1], Y[i : i + 1]) for i in range(2)] for deep, heads in pairs]
    tables = fd_tables(found, x, [0, 1], strengths, strengths)
    for n, (deep, heads) in enumerate(pairs):
        for i in range(2):
            label = Y[i : i + 1]
            plain = of(lambda v, deep=deep, label=label: F.cross_entropy(deep(v.view(1, 1, 6, 6)), label), x[i])
            asked = [
                of(lambda v, heads=heads, label=label: -F.logsigmoid(heads(v.view(1, 1, 6, 6))[0, label[0]]), x[i]),
                of(lambda v, heads=heads, label=label: F.cross_entropy(heads(v.view(1, 1, 6, 6)), label), x[i]),
            ]
            for a, other in enumerate(asked):
                top = [float(torch.linalg.eigvalsh(H)[-1]) for _, H in (plain, other)]
                assert tables["deep_first"].data[n, a, i] == pytest.approx(top[0], rel=1e-7)
                assert tables["heads_first"].data[n, a, i] == pytest.approx(top[1], rel=1e-7)
                assert tables["heads_slope"].data[n, a, i] == pytest.approx(float(other[0].norm()), rel=1e-7)
                for s, strength in enumerate(strengths):
                    bent, squared = [], []
                    for name, (g, H) in (("deep", plain), ("heads", other)):
                        flow = torch.zeros(37, 37, dtype=torch.float64)
                        flow[:36, :36], flow[:36, 36] = H, g
                        delta = torch.linalg.matrix_exp(strength / max(top) * flow)[:36, 36]
                        bent.append(float(delta @ H @ delta)), squared.append(float(delta @ delta))
                        drawn = tables[f"{name}_delta"].data[n, a, s, i] / 127 * tables[f"{name}_delta_scale"].data[n, a, s, i]
                        np.testing.assert_allclose(drawn.ravel(), delta.numpy(), atol=float(delta.abs().max()) / 250)
                    curvature = [b / q for b, q in zip(bent, squared, strict=True)]
                    assert tables["by_beta"].data[n, a, s, i] == pytest.approx(100 * bent[1] / bent[0], rel=1e-6)
                    assert tables["by_length"].data[n, a, s, i] == pytest.approx(100 * curvature[1] / curvature[0], rel=1e-6)
                    assert 10 ** tables["beta_curve"].data[n, a, i, s] == pytest.approx(bent[1] / bent[0], rel=1e-6)
                    single = float(other[0] @ other[1] @ other[0] / (other[0] @ other[0]))
                    assert tables["many"].data[n, a, s, i] == pytest.approx(curvature[1] / single, rel=1e-6)


def test_the_own_question_has_one_mode_and_many_steps_gain_nothing(pairs):
    named = {str(k): (deep.float(), heads.float()) for k, (deep, heads) in enumerate(pairs)}
    sweep = fd(named, make_images(batch=2).float(), Y)
    assert LOSSES[sweep.value["asked"]] == "own question"
    assert (10.0 ** sweep.table("heads_spectrum").data[:, 0, :, 1:] <= 1e-12).all()
    np.testing.assert_allclose(sweep.table("many").data[:, 0], 1, rtol=1e-9)
    assert (sweep.table("many").data[:, 1] > 1 + 1e-9).all()
