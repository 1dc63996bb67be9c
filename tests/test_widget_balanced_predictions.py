"""The tables of the chapter on balanced predictions, against plain loops and autograd."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib.balance import Rebiased, class_gradients
from irlib.widgets.balanced_predictions import SHARES, balanced_predictions, balanced_tables, rebalanced_tables
from tests.conftest import make_images, make_network


def printed(p):
    """Eq. 103's bracket as printed, the true class first."""
    return sum(v**3 for v in p[1:]) + p[0] * (p[0] - 1) ** 2 - (sum(v**2 for v in p[1:]) + p[0] * (p[0] - 1)) ** 2


def mixed(share, right, c):
    rest = 1 - right
    return [right] + [share * rest / (c - 1) + (1 - share) * rest * (k == 0) for k in range(c - 1)]


def squared(p):
    return sum(v**2 for v in p[1:]) + (1 - p[0]) ** 2


def test_the_made_up_predictions_are_plain_loops():
    shares, rights, classes = (0.0, 0.25, 1.0), (0.05, 0.6), (3, 10, 20)
    tables = balanced_tables(shares, rights, classes)
    for j, right in enumerate(rights):
        for k, c in enumerate(classes):
            lone = mixed(0, right, c)
            for i, share in enumerate(shares):
                p = mixed(share, right, c)
                at = lambda name: tables[name].data[i, j, k]  # noqa: B023
                shown = (p + 10 * [0])[:10]
                np.testing.assert_allclose(at("prediction"), shown, atol=1e-15)
                assert at("formula") == pytest.approx(printed(p))
                assert at("step") == pytest.approx(100 * printed(p) / printed(lone))
                assert at("length") == pytest.approx(100 * printed(p) / squared(p) * squared(lone) / printed(lone))
                assert at("competitors") == pytest.approx((1 - right) ** 2 / sum(v**2 for v in p[1:]))
            for n, share in enumerate(SHARES):
                p = mixed(share, right, c)
                assert tables["step_curve"].data[j, k, n] == pytest.approx(printed(p) / printed(lone))
                assert tables["length_curve"].data[j, k, n] == pytest.approx(printed(p) / squared(p) * squared(lone) / printed(lone))


def test_between_the_stops_a_kernel_computes_the_same_way():
    sweep = balanced_predictions(confidences=(0.5, 0.6), classes=(3, 4))
    sweep.move(balance=0.25)
    assert sweep.value["balance"] == 0.25
    np.testing.assert_allclose(sweep.at("step", balance=0.5, py=0.6, classes=4), 100 * printed(mixed(0.5, 0.6, 4)) / printed(mixed(0, 0.6, 4)))


def test_the_rebalanced_network_is_autograds_hessian():
    networks, x = [make_network(seed) for seed in (0, 1)], make_images(batch=2)
    y, bias = torch.tensor([1, 3]), (0.0, 0.5)
    tables = rebalanced_tables([class_gradients(network, x) for network in networks], x, y, bias, [0, 1])
    for j, network in enumerate(networks):
        for k in range(2):
            label = int(y[k])
            p = network(x[k : k + 1])[0].softmax(0).detach()
            forms = []
            for i, share in enumerate(bias):
                rest = (1 - p[label]) / 4
                q = torch.stack([p[m] if m == label else (1 - share) * p[m] + share * rest for m in range(5)])
                model = Rebiased(network, (q / p).log())
                loss = lambda flat: F.cross_entropy(model(flat.view(1, 1, 6, 6)), y[k : k + 1])  # noqa: B023
                g = torch.autograd.functional.jacobian(loss, x[k].flatten())
                H = torch.autograd.functional.hessian(loss, x[k].flatten())
                forms.append((g @ H @ g).item())
                at = lambda name: tables[name].data[i, j, k]  # noqa: B023
                np.testing.assert_allclose(at("p"), q)
                assert at("own") == pytest.approx(forms[-1])
                assert at("change") == pytest.approx(100 * (forms[-1] / forms[0] - 1), abs=1e-6)
            assert tables["right"].data[j, k] == pytest.approx(p[label].item())
            half = SHARES.index(0.5)
            assert tables["network_curve"].data[j, k, half] == pytest.approx(forms[1] / forms[0])
            assert tables["theorem_curve"].data[j, k, half] == pytest.approx(1 + tables["promised"].data[1, j, k] / 100)
            rows = torch.stack([torch.autograd.functional.jacobian(lambda v: network(v)[0, m], x[k : k + 1]).flatten() for m in range(5)])  # noqa: B023
            rows = rows - rows.mean(0)
            np.testing.assert_allclose(tables["cosines"].data[j, k], F.cosine_similarity(rows[:, None], rows[None], dim=-1), atol=1e-12)
            lengths = rows.square().sum() / 4
            others = [v.item() for m, v in enumerate(p) if m != label]
            assert tables["ideal"].data[0, j, k] == pytest.approx((lengths**2).item() * printed([p[label].item(), *others]))
    np.testing.assert_array_equal(tables["original"].data, np.rint(255 * x[:, 0].numpy()))
