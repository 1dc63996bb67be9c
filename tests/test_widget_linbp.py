"""The tables of the chapter on LinBP, against differential equations solved step by step and backward passes written out."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.integrate import solve_ivp

from irlib import create_attack
from irlib.widgets.linbp import TAKEN, LinearBackward, angle, linear_backward, linear_backward_tables, linear_gradients
from tests.conftest import make_images, make_network, make_resnet

LABELS = torch.tensor([1, 3])


def let_through(network, x):
    """make_network's logits, the ReLU's backward pass replaced by the identity: what is added to its input is constant."""
    h = network[1](network[0](x))
    return network[5](network[4](network[3](h + (h.relu() - h).detach())))


def row(function, image):
    return torch.autograd.functional.jacobian(lambda v: function(v)[0], image).flatten(1)


def pieces(network, image, label):
    """g, H and LinBP's own derivative pair (M a, M P W̃ᵀ), with no formula of softmax."""
    z = network(image)[0].detach()
    loss = lambda v: F.cross_entropy(v[None], label[None])
    a, P = torch.autograd.functional.jacobian(loss, z), torch.autograd.functional.hessian(loss, z)
    W, M = row(network, image), row(lambda v: let_through(network, v), image)
    return W.T @ a, W.T @ P @ W, M.T @ a, M.T @ P @ W


def solved(first, matrix, beta, length=math.inf):
    """δ' = first + matrix·δ from 0 until β, or until δ is that long."""
    reached = lambda t, d: np.linalg.norm(d) - length
    reached.terminal = True
    events = reached if length < math.inf else None
    found = solve_ivp(lambda t, d: first + matrix @ d, (0, beta), np.zeros(len(first)), rtol=1e-10, atol=1e-12, events=events)
    return found.y[:, -1], found.t[-1]


def test_linear_gradients_are_those_of_a_backward_pass_without_the_mask(network):
    x = make_images(batch=2)
    found = linear_gradients(network, x, "2")
    for i in range(2):
        expected = row(lambda v: let_through(network, v), x[i : i + 1])
        torch.testing.assert_close(found[i], expected)
        assert (expected - row(network, x[i : i + 1])).abs().max() > 0.1 * expected.abs().max()


def test_a_network_that_is_rescaled_has_no_linear_gradients():
    with pytest.raises(ValueError, match="rescales"):
        linear_gradients(make_resnet(), make_images(), "two")


def test_the_tables_are_solved_differential_equations(network):
    x, strengths = make_images(batch=2), (0.1, 0.6)
    tables = linear_backward_tables([(network, "2")], x, LABELS, strengths)
    for k in range(2):
        g, H, own_g, own_H = (v.numpy() for v in pieces(network, x[k : k + 1], LABELS[k]))
        form = lambda d: d @ H @ d  # noqa: B023
        for s, strength in enumerate(strengths):
            at = lambda name: tables[name].data[s, 0, k]  # noqa: B023
            beta = strength / np.linalg.eigvalsh(H)[-1]
            plain, _ = solved(g, H, beta)
            long, own_beta = solved(own_g, own_H, 100 * beta, np.linalg.norm(plain))
            same, _ = solved(own_g, own_H, beta)
            assert at("at_length") == pytest.approx(form(long) / form(plain), rel=1e-6)
            assert at("at_beta") == pytest.approx(form(same) / form(plain), rel=1e-6)
            cosine = plain @ long / np.linalg.norm(plain) / np.linalg.norm(long)
            assert at("angle") == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-6)
            assert at("cosine") == pytest.approx((g @ own_g) ** 2 / (g @ g) / (own_g @ own_g), rel=1e-9)
            climbed = {}
            for name, b in [("pgd", beta), ("linbp", own_beta)]:
                method = {"from_layer": "2"} if name == "linbp" else {}
                climbed[name] = create_attack(name, network, norm="none", alpha=b / TAKEN, steps=TAKEN, **method).run(x[k : k + 1], LABELS[k : k + 1])
            delta = climbed["linbp"].delta.flatten().numpy()
            assert at("gap") == pytest.approx(100 * np.linalg.norm(delta - long) / np.linalg.norm(delta), rel=1e-3)
            assert at("network_angle") == pytest.approx(angle(climbed["linbp"].delta.flatten(), climbed["pgd"].delta.flatten()).item(), rel=1e-4)
            frame = tables["closed"].data[s, 0, k] * tables["closed_scale"].data[s, 0, k] / 127
            np.testing.assert_allclose(frame.ravel(), long, atol=np.abs(long).max() / 250)
    for name in ("at_length", "cosine", "angle", "network_angle"):
        np.testing.assert_array_equal(tables[f"{name}_curve"].data, np.moveaxis(tables[name].data, 0, -1))


def test_the_strength_of_a_length_and_its_limits(network):
    x = make_images(batch=1)
    z, W, M = network(x)[0].detach(), row(network, x), linear_gradients(network, x, "2")[0]
    attack = LinearBackward(z, W, M, 1)
    assert attack.infinite_step(attack.strength_of(0.37)).norm().item() == pytest.approx(0.37)
    with pytest.raises(OverflowError, match="beta = 1e\\+08"):
        attack.infinite_step(1e8)
    downhill = LinearBackward(z, W, -W, 1)  # goes back to where the gradient vanishes, and stops
    with pytest.raises(ValueError, match="never gets as long"):
        downhill.strength_of(1e4)


def test_angles_between_nearly_equal_vectors_keep_their_digits():
    a, b = torch.tensor([1.0, 0.0]).double(), torch.tensor([1.0, 1e-9]).double()
    assert angle(a, b).item() == pytest.approx(math.degrees(1e-9))
    assert angle(a, -a).item() == pytest.approx(180)


def test_the_sweep_starts_where_it_says():
    sweep = linear_backward([("all", make_network(0), "2"), ("all of another", make_network(1), "2")], make_images(batch=2), LABELS, (0.1, 0.2))
    assert sweep.value == {"strength": 0.2, "passed": 1, "picture": 0}
    sweep.move(strength=0.15)
    assert sweep.value["strength"] == 0.15
