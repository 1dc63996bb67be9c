"""The transfer sweep's tables and the stored study, against plain loops: hand-written sign ascent, one image at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import load_model
from irlib.replicate.transfer import AXES, EPS, PLAIN, SOURCES, STEPS, STRONG, TARGETS, attacked, grid_outcomes, noise, outcomes, study_images
from irlib.widgets.transfer import transfer, transfer_tables
from tests.conftest import make_images, make_network


@pytest.fixture
def few():
    """Two sources, three targets, images and labels of which the targets have some right."""
    networks = [make_network(seed, classes=10) for seed in range(5)]
    x = make_images(batch=4)
    with torch.no_grad():
        for network in networks:
            network[-1].bias -= network(x).mean(0)  # so that no class wins everywhere
    return networks[:2], networks[2:], x, networks[2](x).argmax(1)


def by_hand(model, image, label, eps, steps):
    """The adversarial image after ``steps`` sign steps of ε / min(steps, 8), clipped to the ball and to [0, 1]."""
    low, high = (image - eps).clamp_min(0), (image + eps).clamp_max(1)
    adversarial = image
    for _ in range(steps):
        v = adversarial.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(model(v), label), v)
        adversarial = (adversarial + eps / min(steps, 8) * slope.sign()).clamp(low, high)
    return adversarial


def test_the_tables_are_plain_loops(few):
    sources, targets, x, y = few
    eps, steps = (0.0, 0.05, 0.3), (1, 3, 10)
    tables = transfer_tables(sources, targets, x, y, eps, steps)
    moved = set()
    for i, e in enumerate(eps):
        for j, m in enumerate(steps):
            for k, source in enumerate(sources):
                for n in range(len(x)):
                    image, label = x[n : n + 1], y[n : n + 1]
                    expected = by_hand(source, image, label, e, m)
                    at = lambda name: tables[name].data[i, j, k, n]  # noqa: B023
                    with torch.no_grad():
                        seen = torch.cat([target(expected).softmax(1) for target in targets])
                        assert at("loss") == pytest.approx(F.cross_entropy(source(expected), label).item(), rel=1e-9)
                        assert tables["clean"].data[k, n] == pytest.approx(F.cross_entropy(source(image), label).item(), rel=1e-9)
                    np.testing.assert_allclose(at("probabilities"), 100 * seen, atol=0.501)
                    assert at("fooled") == sum(row.argmax() != label for row in seen)
                    np.testing.assert_allclose(at("adversarial"), 255 * expected[0, 0], atol=0.501)
                    scale = at("delta_scale").item()
                    assert scale == pytest.approx((expected - image).abs().max().item(), abs=1e-9)
                    np.testing.assert_allclose(at("delta") / 127 * scale, (expected - image)[0, 0], atol=scale / 254 + 1e-12)
                    moved.add(int(at("fooled")))
    assert len(moved) > 1
    assert (tables["delta"].data[0] == 0).all()


def test_outcomes_are_plain_loops_and_rates_their_means(few):
    sources, targets, x, y = few
    named, others = ({f"{kind}{k}": model for k, model in enumerate(models)} for kind, models in (("s", sources), ("t", targets)))
    found = grid_outcomes(named, others, x, y, (0, 0.3), (1, 2))
    assert found.dtype == torch.bool and found.shape == (2, 2, 2, 3, 4)
    for i, e in enumerate((0, 0.3)):
        for j, m in enumerate((1, 2)):
            for k, source in enumerate(sources):
                adversarial = torch.cat([by_hand(source, x[n : n + 1], y[n : n + 1], e, m) for n in range(4)])
                for t, target in enumerate(targets):
                    assert found[i, j, k, t].tolist() == (target(adversarial).argmax(1) != y).tolist()
    assert 0 < found.double().mean() < 1

    drawn = torch.rand(len(EPS), 2, 2, 3, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    sweep = transfer(named, others, x, y, drawn, steps=(1, 2))
    for (i, e), (j, m), k in [((4, 16), (1, 2), 1), ((1, 2), (0, 1), 0)]:
        expected = [100 * sum(drawn[i, j, k, t].tolist()) / 50 for t in range(3)]
        assert sweep.at("rates", eps=e, steps=m, source=k).tolist() == pytest.approx(expected)
        assert sweep.at("mean", eps=e, steps=m, source=k) == pytest.approx(sum(expected) / 3)
    with pytest.raises(ValueError, match=r"must start with shape \(6, 5, 2, 3\)"):
        transfer(named, others, x, y, drawn)


def test_noise_has_the_size_of_one_step_and_no_direction():
    x = make_images(batch=40)
    moved = noise(x, 0.05, seed=3)
    inside = (x > 0.05) & (x < 0.95)
    torch.testing.assert_close(moved[inside].abs(), torch.full_like(moved[inside], 0.05))
    assert 0.45 < (moved[inside] > 0).double().mean() < 0.55
    assert ((x + moved) >= 0).all() and ((x + moved) <= 1).all()
    assert not moved.equal(noise(x, 0.05, seed=4))
    assert moved.equal(noise(x, 0.05, seed=3))


def test_an_l2_attack_has_its_radius_and_a_record_all_updates(few):
    sources, _, x, y = few
    middle = 0.3 + 0.4 * x
    assert attacked(sources[0], middle, y, 0.1, 1, "l2").flatten(1).norm(dim=1).tolist() == pytest.approx([0.1] * 4)
    record = attacked(sources[0], x, y, 0.1, 9, record=True)
    assert record.shape == (10, *x.shape)
    assert record[-1].equal(attacked(sources[0], x, y, 0.1, 9))


def test_stored_outcomes_have_their_axes_and_agree_with_each_other():
    n = outcomes("noise").shape[-1]
    for name, axes in AXES.items():
        assert outcomes(name).shape == (*(len(values) for values in axes.values()), n)
    grid, matrix, updates = outcomes("grid"), outcomes("matrix"), outcomes("updates")
    columns = [PLAIN.index(t) for t in TARGETS]
    assert not grid[0].any() and not outcomes("noise")[0].any()  # ε = 0: images that all have right
    for k, eps in enumerate(STRONG):
        for j, m in enumerate((1, 10)):
            assert grid[EPS.index(eps), STEPS.index(m)].equal(matrix[k, j, : len(SOURCES)][:, columns])
    for m in (10, 20):
        assert updates[m - 1].equal(grid[EPS.index(16 / 255), STEPS.index(m)])


def test_stored_outcomes_are_what_a_fresh_run_gives():
    models = {name: load_model(name) for name in PLAIN}
    x, y = study_images(models, 20)
    assert all((model(x).argmax(1) == y).all() for model in models.values())
    seven = [PLAIN.index(t) for t in TARGETS]
    for name in ("fmnist-mlp", "fmnist-vgg"):
        moved = torch.cat([by_hand(models[name], x[i : i + 1], y[i : i + 1], 16 / 255, 1) for i in range(20)])
        live = torch.stack([models[t](moved).argmax(1) != y for t in TARGETS])
        stored = outcomes("matrix")[1, 0, PLAIN.index(name), seven, :20]
        assert live.any() and not live.all()
        assert (live == stored).double().mean() > 0.98
