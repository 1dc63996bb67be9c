"""The tables of IL's theory widget against dense simulated steps, and the pull of the features against finite differences."""

import numpy as np
import pytest
import torch

from irlib import Quadratic
from irlib.widgets.il import il_tables, il_theory, pulled
from tests.conftest import make_images, make_resnet


@pytest.fixture(scope="module")
def network():
    return make_resnet()


def jacobian(network, x, layer):
    """Of the layer's output, column by column, by central differences inside one linear region."""
    kept = {}
    handle = dict(network.named_modules())[layer].register_forward_hook(lambda module, args, out: kept.update(out=out.detach().flatten()))
    columns = []
    for k in range(x.numel()):
        ends = []
        for sign in (1, -1):
            moved = x.flatten().clone()
            moved[k] += sign * 1e-7
            network(moved.view_as(x))
            ends.append(kept["out"])
        columns.append((ends[0] - ends[1]) / 2e-7)
    handle.remove()
    return torch.stack(columns, 1)


@pytest.mark.parametrize("layer", ["one", "two"])
def test_the_features_pull_by_their_jacobian(network, layer):
    x = make_images(batch=1)
    J = jacobian(network, x, layer)
    directions = torch.randn(3, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pulled(network, x, directions, layer)
    torch.testing.assert_close(found, directions @ J.T @ J, rtol=1e-5, atol=1e-6)
    if layer == network.layers.il:
        torch.testing.assert_close(pulled(network, x, directions), found)


def climbed(g, H, beta, m):
    delta = np.zeros_like(g)
    for _ in range(m):
        delta = delta + beta / m * (g + H @ delta)
    return delta


def test_the_tables_are_those_of_simulated_steps(network):
    x, y = make_images(batch=2), torch.tensor([1, 3])
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    images = [pulled(network, x[i : i + 1], q.modes.T) for i, q in enumerate(quadratics)]
    strength, share = (0.5, 2.0), (0.1, 0.5, 1.0)
    tables = il_tables(quadratics, images, x.shape[-2:], strength, share)
    for b, q in enumerate(quadratics):
        H, g, JTJ = (
            (q.modes @ q.eigenvalues.diag() @ q.modes.T).numpy(),
            q.g.numpy(),
            (lambda J: (J.T @ J).numpy())(jacobian(network, x[b : b + 1], "one")),
        )
        along = lambda d, H=H: d @ H @ d / (d @ d)
        for i, s in enumerate(strength):
            beta = s / q.eigenvalues[0].item()
            limit = lambda b, g=g, H=H: 2 * climbed(g, H, b, 4000) - climbed(g, H, b, 2000)
            plain = limit(beta)
            for j, part in enumerate(share):
                base = limit(part * beta)
                turned = JTJ @ base
                expected = {
                    "il_pixels": 100 * along(base) / along(plain),
                    "il_features": 100 * along(turned) / along(plain),
                    "il_single": 100 * along(g) / along(plain),
                    "il_eta": np.linalg.norm(plain) / np.linalg.norm(base),
                    "il_turn": np.degrees(np.arccos(turned @ base / np.linalg.norm(turned) / np.linalg.norm(base))),
                }
                for name, value in expected.items():
                    assert tables[name].data[i, j, b] == pytest.approx(value, rel=1e-4), name
                unit = [d / np.linalg.norm(d) for d in (plain, base)]
                for name, d in zip(("plain", "pixels"), unit, strict=True):
                    shown = np.tensordot(tables[f"il_{name}_weights"].data[i, j, b], tables["il_modes"].data[b], 1)
                    np.testing.assert_allclose(shown.ravel(), d, atol=1e-6)
                    np.testing.assert_allclose(tables[f"il_{name}_share"].data[i, j, b], (q.modes.numpy().T @ d) ** 2, atol=1e-6)
                    curve = tables[f"il_{name}_curve"].data[i, b, j]
                    assert curve == pytest.approx(along(d) / q.eigenvalues[0].item(), rel=1e-6)
                shown = np.tensordot(tables["il_pixels_weights"].data[i, j, b], tables["il_pulled"].data[b], 1).ravel()
                np.testing.assert_allclose(shown / np.linalg.norm(shown), turned / np.linalg.norm(turned), atol=1e-5)


def test_the_sweep_has_a_bowl_for_each_network_and_image(network):
    x, y = make_images(batch=2), torch.tensor([1, 3])
    sweep = il_theory({"tiny": network}, x, y, strength=(0.5, 1.0), share=(0.1, 1.0))
    assert sweep.spec["params"][2]["texts"] == ["tiny, trouser", "tiny, dress"]
    assert sweep.at("il_pixels", strength=0.5, share=1.0, bowl=1) == pytest.approx(100)
    q = Quadratic.at(network, x[1:], y[1:])
    plain, base = (q.infinite_step(s / q.eigenvalues[0].item()) for s in (1.0, 0.1))
    expected = 100 * q.interaction(base * plain.norm() / base.norm()) / q.interaction(plain)
    assert sweep.at("il_pixels", strength=1.0, share=0.1, bowl=1) == pytest.approx(float(expected))
