"""The tables of the chapter on IA, against automatic differentiation on networks altered by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib.widgets.ia import WEAKENED, lemma_bounds, level_curvature, orthogonal_curvature, smooth_networks, smooth_tables, weakened
from tests.conftest import make_images, make_network, make_resnet

LABELS = torch.tensor([1, 3])


def normal(loss, v):
    g = torch.autograd.functional.jacobian(loss, v, create_graph=True)
    return g / g.norm()


def divergence(loss, v):
    """∇·(∇L/‖∇L‖) by its definition."""
    return torch.autograd.functional.jacobian(lambda u: normal(loss, u), v).trace().item()


def test_the_objective_of_a_piecewise_linear_network_is_the_divergence_of_its_normalised_gradient(network):
    x = make_images(batch=2)
    for i in range(2):
        loss = lambda v: F.cross_entropy(network(v.view(1, 1, 6, 6)), LABELS[i : i + 1])  # noqa: B023
        w = torch.autograd.functional.jacobian(lambda v: network(v.view(1, 1, 6, 6))[0], x[i].flatten())
        p = network(x[i : i + 1])[0].softmax(0).detach()
        assert level_curvature(w @ w.T, p, int(LABELS[i])).item() == pytest.approx(divergence(loss, x[i].flatten()), rel=1e-9)


@pytest.mark.parametrize("c", [3, 5])
def test_orthogonal_classes_have_the_formula_and_lie_between_the_papers_bounds(c):
    rng = torch.Generator().manual_seed(c)
    W = math.sqrt(2.5) * torch.linalg.qr(torch.randn(12, c, generator=rng, dtype=torch.float64))[0]
    for _ in range(5):
        v = 2 * torch.randn(12, generator=rng, dtype=torch.float64)
        y = int((v @ W).argmax())
        found = divergence(lambda u: F.cross_entropy((u @ W)[None], torch.tensor([y])), v)  # noqa: B023
        p = (v @ W).softmax(0)
        assert orthogonal_curvature(p, y, 2.5).item() == pytest.approx(found, rel=1e-8)
        s, right = (p**2).sum().item() - p[y].item() ** 2, p[y].item()
        root = math.sqrt(2.5 / (s + (right - 1) ** 2))
        low, high = (value.item() for value in lemma_bounds(p, y, 2.5))
        assert low == pytest.approx(root * (1 - s - right**2 + 2 * right * (right - 1)), rel=1e-9)  # as printed
        assert high == pytest.approx(root * (1 - s - right**2), rel=1e-9)
        assert right < 0.5 or low - 1e-12 <= found <= high + 1e-12


def test_a_confident_image_keeps_its_digits():
    p = torch.tensor([1 - 3e-9, 2e-9, 1e-9], dtype=torch.float64)
    assert level_curvature(4 * torch.eye(3).double(), p, 0).item() == pytest.approx(2 * (1 - 1 / 3) / (1 + 5 / 9) ** 1.5, rel=1e-6)
    assert level_curvature(torch.eye(2).double(), torch.tensor([0.7, 0.3]), 0).item() == pytest.approx(0, abs=1e-12)


def by_hand(model, beta, share, x):
    """TinyResNet with softplus for ReLU and its two branches scaled: 0.98 and 0.73 at full share, the first and third quarter of the depth."""
    soft = lambda v: F.softplus(v, beta=beta)
    h = soft(model.bn(model.conv(x)))
    for block, published in [(model.one, 0.98), (model.two, 0.73)]:
        branch = block.bn2(block.conv2(soft(block.bn1(block.conv1(h)))))
        h = soft((1 - share * (1 - published)) * branch + (h if block.downsample is None else block.downsample(h)))
    return model.fc(h.flatten(1))


def test_the_tables_are_those_of_networks_altered_by_hand():
    model, x, betas, shares = make_resnet(), make_images(batch=2), (3.0, 20.0), (0.0, 0.6)
    tables = smooth_tables(model, x, LABELS, betas, shares)
    for k in range(2):
        y = int(LABELS[k])

        def measured(forward):
            image = x[k : k + 1]  # noqa: B023
            p = forward(image)[0].softmax(0).detach()
            W = torch.autograd.functional.jacobian(lambda u: forward(u)[0], image).flatten(1)
            g, H = W.T @ (p - F.one_hot(torch.tensor(y), 5)), W.T @ (torch.diag(p) - torch.outer(p, p)) @ W  # noqa: B023
            return p, g, H, W - W.mean(0)

        _, g0, H0, W0 = measured(model)
        for i, beta in enumerate(betas):
            for j, share in enumerate(shares):
                at = lambda name: tables[name].data[i, j, k]  # noqa: B023
                p, g, H, W = measured(lambda u: by_hand(model, beta, share, u))  # noqa: B023
                others = [v for m, v in enumerate(p.tolist()) if m != y]
                np.testing.assert_allclose(at("p"), p, atol=1e-12)
                assert at("right") == pytest.approx(p[y].item())
                assert at("squares") == pytest.approx(sum(v**2 for v in others))
                assert at("rivals") == pytest.approx(sum(others) ** 2 / sum(v**2 for v in others))
                assert at("curvature") == pytest.approx(((H.trace() - g @ H @ g / (g @ g)) / g.norm()).item(), rel=1e-6)
                assert at("step") == pytest.approx((g @ H @ g / (g0 @ H0 @ g0)).item(), rel=1e-6)
                assert at("length") == pytest.approx((g @ H @ g / (g @ g) / (g0 @ H0 @ g0 / (g0 @ g0))).item(), rel=1e-6)
                assert at("kappa") == pytest.approx((W.square().sum() / W0.square().sum()).item(), rel=1e-6)
                assert at("size") == pytest.approx(W.square().sum().item() / 4, rel=1e-6)
                assert at("lower") == pytest.approx(lemma_bounds(p, y, W.square().sum().item() / 4)[0].item(), rel=1e-6)
                assert at("upper") == pytest.approx(lemma_bounds(p, y, W.square().sum().item() / 4)[1].item(), rel=1e-6)
    full = smooth_tables(model, x, LABELS, betas, WEAKENED)
    for name in ("curvature", "upper", "lower"):
        np.testing.assert_allclose(tables[f"{name}_curve"].data, np.moveaxis(full[name].data / full["size"].data ** 0.5, 1, -1))
    np.testing.assert_allclose(10 ** tables["step_curve"].data, np.moveaxis(full["step"].data, 1, -1))


def test_the_sweep_starts_where_it_says_and_computes_between_its_stops():
    sweep = smooth_networks(make_resnet(), make_images(batch=2), LABELS, (3.0, 20.0))
    assert sweep.value == {"softplus": 20.0, "weaken": 0.5, "picture": 0}
    sweep.move(softplus=7.0, weaken=0.4)
    assert sweep.value["weaken"] == 0.4


def test_a_network_without_branches_is_refused():
    with pytest.raises(ValueError, match="residual"):
        weakened(make_network(), 20.0, 0.5)
