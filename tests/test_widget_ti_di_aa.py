"""The tables of the widget on TI against smoothed ascent step by step, with the kernel as a plain convolution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import Quadratic
from irlib.attacks.ti import gaussian_line
from irlib.widgets.ti_di_aa import curvatures, smoothed_ascent, smoothing, translations, translations_tables
from tests.conftest import make_images, make_network


def convolved(v, size):
    line = gaussian_line(size)
    kernel = torch.outer(line, line)[None, None]
    return F.conv2d(v.view(1, 1, 6, 6), kernel, padding=size // 2).flatten()


def climbed(g, H, beta, size):
    """Smoothed raw ascent in many steps, extrapolated to infinitely many."""
    ends = []
    for m in (2**9, 2**10):
        delta = torch.zeros_like(g)
        for _ in range(m):
            delta = delta + beta / m * convolved(g + H @ delta, size)
        ends.append(delta)
    return 2 * ends[1] - ends[0]


@pytest.fixture
def bowls():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    return x, [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]


def test_the_matrix_is_the_convolution():
    v = torch.randn(36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (1, 3, 5):
        W = smoothing(size, 6)
        torch.testing.assert_close(W @ v, convolved(v, size))
        torch.testing.assert_close(W, W.T)
    assert (smoothing(1, 6) == torch.eye(36)).all()


def test_the_tables_are_those_of_simulated_steps(bowls):
    x, quadratics = bowls
    tables = translations_tables(x, quadratics, (1, 3, 5), (0.3, 1.5))
    for i, q in enumerate(quadratics):
        H = q.modes @ q.eigenvalues.diag() @ q.modes.T
        for s, strength in enumerate((0.3, 1.5)):
            beta = strength / q.eigenvalues[0].item()
            plain = climbed(q.g, H, beta, 1)
            for k, size in enumerate((1, 3, 5)):
                delta = climbed(q.g, H, beta, size)
                torch.testing.assert_close(smoothed_ascent(q, smoothing(size, 6), beta), delta, rtol=0, atol=1e-4 * float(delta.norm()))
                same_beta, length = (delta @ H @ delta) / (plain @ H @ plain), delta.norm() / plain.norm()
                for name, value in {"same_beta": same_beta, "length": length, "same_length": same_beta / length**2}.items():
                    assert tables[name].data[k, s, i] == pytest.approx(100 * value.item(), rel=1e-3), name
                assert tables["beta_curve"].data[s, i, k] == pytest.approx(same_beta.item(), rel=1e-3)
                assert tables["length_curve"].data[s, i, k] == pytest.approx((same_beta / length**2).item(), rel=1e-3)
                drawn = tables["smoothed"].data[k, s, i] / 127.0 * tables["smoothed_scale"].data[k, s, i]
                np.testing.assert_allclose(drawn.ravel(), delta, atol=0.005 * float(delta.abs().max()))
        for k, size in enumerate((1, 3, 5)):
            felt = torch.linalg.eigvals(smoothing(size, 6) @ H).real.sort(descending=True).values[: len(q.gamma)]
            torch.testing.assert_close(curvatures(q, smoothing(size, 6)), felt, rtol=1e-7, atol=1e-12 * float(felt[0]))
            np.testing.assert_allclose(tables["share"].data[k, i], (felt / q.eigenvalues).numpy(), rtol=1e-6)
            assert tables["steepest"].data[k, i] == pytest.approx(100 * float(felt[0] / q.eigenvalues[0]))


def test_the_sweep_starts_where_a_kernel_smooths():
    sweep = translations(make_network(), make_images(batch=2), torch.tensor([1, 3]), strengths=(0.5, 1.0))
    assert sweep.value == {"kernel": 5, "strength": 1.0, "at": 0}
    for name in ("steepest", "length", "same_beta", "same_length"):
        assert sweep.said(name, kernel=1) == "100 %"
    assert float(sweep.at("steepest", kernel=5, strength=1.0, at=0)) < 100
    sweep.move(strength=0.8)
    assert sweep.value["strength"] == 0.8
