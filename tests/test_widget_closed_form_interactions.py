"""The tables of the widget on interactions in closed form against simulated steps, and its study against games played one by one."""

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import irlib
from irlib import AttackGame, Quadratic, load_images, load_model, local, total_interaction
from irlib.game import grid_cells
from irlib.widgets.closed_form_interactions import (
    SYNTHETIC,
    between_units,
    closed_form_interactions,
    closed_form_interactions_tables,
    locality,
    perturbations,
    published,
    study,
)
from tests.conftest import make_images, make_network


def climbed(lam, gamma, beta, m):
    """The perturbation in the modes' coordinates, step by step; 2¹⁴ steps and Richardson's extrapolation stand for infinitely many."""
    if m == math.inf:
        return 2 * climbed(lam, gamma, beta, 2**14) - climbed(lam, gamma, beta, 2**13)
    delta = np.zeros_like(lam)
    for _ in range(m):
        delta = delta + beta / m * (gamma + lam * delta)
    return delta


def test_the_tables_are_those_of_simulated_steps():
    spectra = [*SYNTHETIC.values(), (torch.linspace(7, 0.5, 9).double(), torch.rand(9, generator=torch.Generator().manual_seed(0)).double())]
    strengths, steps = (0.1, 1.0, 2.0), (1, 2, 10, math.inf)
    tables = closed_form_interactions_tables(spectra, strengths, steps)
    for k, (eigenvalues, weights) in enumerate(spectra):
        lam, gamma = eigenvalues.numpy(), np.sqrt(weights.numpy())
        for i, s in enumerate(strengths):
            for j, m in enumerate(steps):
                beta = s / np.abs(lam).max()
                delta = climbed(lam, gamma, beta, m)
                unit = beta**2 * (gamma**2).sum() * np.abs(lam).max()
                parts = lam * delta**2
                same_beta = (lam * (beta * gamma) ** 2).sum()
                same_norm = (lam * gamma**2).sum() * (delta**2).sum() / (gamma**2).sum()
                expected = {
                    "multi": parts.sum() / unit,
                    "beta": same_beta / unit,
                    "norm": same_norm / unit,
                    "ratio_beta": parts.sum() / same_beta,
                    "ratio_norm": parts.sum() / same_norm,
                }
                for name, value in expected.items():
                    assert tables[name].data[i, j, k] == pytest.approx(value, rel=1e-6)
                np.testing.assert_allclose(tables["share"].data[i, j, k], parts / np.abs(parts).sum(), rtol=1e-6)
                curvature = parts.sum() / (delta**2).sum() / np.abs(lam).max()
                assert tables["curvature_curve"].data[j, k, i] == pytest.approx(curvature, rel=1e-6)
                assert tables["multi_curve"].data[j, k, i] == tables["multi"].data[i, j, k]
        single = eigenvalues.numpy() * weights.numpy()
        np.testing.assert_allclose(tables["share_single"].data[k], single / np.abs(single).sum())


def test_the_sweep_shows_the_networks_own_spectra():
    network, x, y = make_network(classes=10), make_images(batch=2), torch.tensor([1, 3])
    sweep = closed_form_interactions(network, x, y, strengths=(0.5, 1.0), steps=(2, math.inf))
    q = Quadratic.at(network, x[1:], y[1:])
    delta = q.multi_step(0.25 / q.eigenvalues[0].item(), 2)
    expected = q.interaction(delta) / q.interaction(q.single_step_like(delta))
    assert sweep.at("ratio_norm", strength=0.5, steps=2, spectrum=1) == pytest.approx(expected.item(), rel=1e-9)
    assert len(sweep.spec["params"][2]["values"]) == 2 + len(SYNTHETIC)


def test_fewer_classes_leave_bars_empty_and_more_are_refused():
    x, y = make_images(batch=1), torch.tensor([1])
    sweep = closed_form_interactions(make_network(classes=4), x, y, strengths=(1.0,), steps=(2,))
    share = sweep.at("share", strength=1.0, steps=2, spectrum=0)
    assert (share[:3] > 0).all()
    assert (share[3:] == 0).all()
    with pytest.raises(ValueError, match="at most ten classes"):
        closed_form_interactions(make_network(classes=12), x, y)


@pytest.mark.parametrize("grid", [2, 3, 4])
def test_the_sum_between_units_is_that_of_hessian_vector_products(grid):
    network, x = make_network(), make_images()
    y = torch.tensor([0, 2, 4])
    delta = 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = local.hessian(AttackGame(network, x, delta, y, grid=grid), diagonal=False)
    found = [between_units(Quadratic.at(network, x[i : i + 1], y[i : i + 1]), delta[i], grid_cells(6, 6, grid)) for i in range(3)]
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-9, atol=1e-12)


def norms(delta):
    return delta.flatten(1).norm(dim=1)


def test_the_perturbations_are_ten_plain_steps_and_single_ones():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    multi, single, like = perturbations(network, x, y, quadratics, 0.5)
    for i, q in enumerate(quadratics):
        beta, delta = 0.5 / q.eigenvalues[0], torch.zeros_like(x[i : i + 1])
        for _ in range(10):
            at = (x[i : i + 1] + delta).requires_grad_()
            delta = delta + beta / 10 * torch.autograd.grad(torch.nn.functional.cross_entropy(network(at), y[i : i + 1]), at)[0]
        torch.testing.assert_close(multi[i], delta[0])
        torch.testing.assert_close(single[i].flatten(), beta * q.g)
        torch.testing.assert_close(like[i].flatten() / norms(like)[i], q.g / q.g.norm())
    torch.testing.assert_close(norms(like), norms(multi))
    torch.testing.assert_close(norms(published(network, x, y, "l2", 0.6)[1]), norms(published(network, x, y, "l2", 0.6)[0]))
    ten, one = published(network, x, y, "linf", 0.05)
    assert one.abs().max() == pytest.approx(0.05)
    assert not torch.allclose(ten, one)


def test_the_study_is_made_of_games():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    found = study(network, x, y, (0.2, 0.5), eps=0.05, grid=3)
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    for s in (0.2, 0.5):
        for name, delta in zip(("multi", "beta", "norm"), perturbations(network, x, y, quadratics, s), strict=True):
            assert found["raw"][f"{s:g}"][name] == total_interaction(AttackGame(network, x, delta, y, grid=3)).tolist()
    for norm, radius in (("linf", 0.05), ("l2", 0.3)):
        for name, delta in zip(("multi", "single"), published(network, x, y, norm, radius), strict=True):
            for u in ("ce", "margin"):
                expected = total_interaction(AttackGame(network, x, delta, y, grid=3, utility=u))
                np.testing.assert_allclose(found["published"][norm][u][name], expected, rtol=1e-9)
    for i, q in enumerate(quadratics):
        game = AttackGame(network, x[i : i + 1], q.multi_step(0.05 / q.eigenvalues[0].item(), 10).view(1, 1, 6, 6), y[i : i + 1], grid=3)
        assert found["predicted"]["0.5"]["multi"][i] == pytest.approx(local.hessian(game, diagonal=False).item(), rel=1e-9)
        ceiling = max(q.interaction(v) / (v @ v) for v in q.modes.T) * (q.g @ q.g) / q.interaction(q.g)
        assert found["predicted"]["0.2"]["ceiling"][i] == pytest.approx(ceiling.item())


def test_prediction_and_measurement_meet_where_the_perturbation_is_small():
    network, x, y = make_network(), make_images(batch=2), torch.tensor([1, 3])
    found = locality(network, x, y, (1e-5, 0.1), grid=3)
    for each in found.values():
        predicted, measured = np.array(each["predicted"]), np.array(each["measured"])
        np.testing.assert_allclose(predicted[0], measured[0], rtol=1e-2)
        assert (np.abs(predicted[1] / measured[1] - 1) > 2e-2).all()
    g = torch.stack([Quadratic.at(network, x[i : i + 1], y[i : i + 1]).g for i in range(2)])
    delta = (0.1 * g / g.abs().amax(1, keepdim=True)).view(x.shape)
    np.testing.assert_allclose(found["raw"]["measured"][1], total_interaction(AttackGame(network, x, delta, y, grid=3)), rtol=1e-9)


def test_the_stored_results_are_what_the_code_gives():
    stored = json.loads((Path(irlib.__file__).parent / "results" / "closed_form_interactions.json").read_text())
    x, y = load_images("fashion-mnist", 80, seed=1)
    right = torch.stack([load_model(name)(x).argmax(1) == y for name in stored["networks"]]).all(0)
    x, y = x[right][:3].double(), y[right][:3]
    mlp = copy.deepcopy(load_model("fmnist-mlp")).double()
    again, kept = study(mlp, x, y, (0.5,)), stored["networks"]["fmnist-mlp"]
    for part, row in (("raw", "0.5"), ("predicted", "0.5")):
        for name, values in again[part][row].items():
            np.testing.assert_allclose(values, kept[part][row][name][:3], rtol=1e-6)
    for norm, by_utility in again["published"].items():
        for u, pair in by_utility.items():
            for name, values in pair.items():
                np.testing.assert_allclose(values, kept["published"][norm][u][name][:3], rtol=1e-6)
    near = locality(mlp, x, y, stored["settings"]["locality"]["epsilons"][-2:])
    for attack, each in near.items():
        for name, rows in each.items():
            np.testing.assert_allclose(rows, np.array(stored["locality"]["fmnist-mlp"][attack][name])[-2:, :3], rtol=1e-4)
