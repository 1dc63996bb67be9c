"""Each attack against its published rule written out in loops, image by image; constraints; the model afterwards; bad input."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irlib import create_attack, list_attacks
from irlib.attacks import loop
from tests.conftest import assert_untouched, make_images, make_network, snapshot

KW = dict(eps=0.06, alpha=0.015, steps=7)


def loss_gradient(network, image, label):
    """∇ −log softmax(z)_y at one image, from the Jacobian of the logits: no cross-entropy, no batch."""
    jacobian = torch.autograd.functional.jacobian(lambda v: network(v[None])[0], image)
    p = network(image[None])[0].softmax(0).detach()
    p[label] -= 1
    return (p[:, None, None, None] * jacobian).sum(0)


def rederived(network, x, y, norm, decay, eps, alpha, steps, sign=1):
    """PGD (decay None) and MI, one image at a time, as their papers write them; every iterate is kept."""
    out = []
    for image, label in zip(x, y, strict=True):
        delta, m, path = torch.zeros_like(image), torch.zeros_like(image), [torch.zeros_like(image)]
        for _ in range(steps):
            g = sign * loss_gradient(network, image + delta, label)
            if decay is not None:
                m = decay * m + g / g.abs().sum()
                g = m
            if norm == "linf":
                delta = delta + alpha * ((g > 0).double() - (g < 0).double())
                delta = torch.where(delta > eps, eps, torch.where(delta < -eps, -eps, delta))
            elif norm == "l2":
                delta = delta + alpha * g / math.sqrt((g**2).sum())
                length = math.sqrt((delta**2).sum())
                if length > eps:
                    delta = delta * eps / length
            else:
                delta = delta + alpha * g
            if norm != "none":
                delta = (image + delta).clamp(0, 1) - image
            path.append(delta)
        out.append(torch.stack(path))
    return torch.stack(out, dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2", "none"])
@pytest.mark.parametrize(("name", "args"), [("pgd", {}), ("mi", {"decay": 1.0}), ("mi", {"decay": 0.7})])
def test_every_step_follows_the_published_rule(name, args, norm, network, x, y):
    kw = KW | ({"alpha": 0.3, "eps": 0.9} if norm != "linf" else {})
    run = create_attack(name, network, norm=norm, **kw, **args).run(x, y, record=True)
    expected = rederived(network, x, y, norm, args.get("decay"), **kw)
    torch.testing.assert_close(run.deltas, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(run.x_adv, x + expected[-1], rtol=0, atol=1e-10)


def test_the_l2_rule_was_tested_where_the_ball_binds(network, x, y):
    run = create_attack("pgd", network, norm="l2", eps=0.9, alpha=0.3, steps=7).run(x, y, record=True)
    assert run.deltas[-1].flatten(1).norm(dim=1).max() > 0.89


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_one_step_to_the_edge(norm, network, x, y):
    expected = rederived(network, x, y, norm, None, eps=0.05, alpha=0.05, steps=1)
    torch.testing.assert_close(create_attack("fgsm", network, norm=norm, eps=0.05)(x, y), x + expected[-1], rtol=0, atol=1e-12)
    torch.testing.assert_close(create_attack("fgsm", network, norm=norm, eps=0.05, alpha=0.01, steps=9)(x, y), x + expected[-1], rtol=0, atol=1e-12)


def test_fgsm_without_a_norm_is_the_single_step_of_eq_11(network, x, y):
    expected = torch.stack([0.4 * loss_gradient(network, image, label) for image, label in zip(x, y, strict=True)])
    torch.testing.assert_close(create_attack("fgsm", network, norm="none", alpha=0.4)(x, y), x + expected, rtol=0, atol=1e-12)


def test_momentum_without_memory_is_pgd(network, x, y):
    torch.testing.assert_close(create_attack("mi", network, decay=0.0, **KW)(x, y), create_attack("pgd", network, **KW)(x, y), rtol=0, atol=0)


def test_nothing_returned_carries_a_graph_even_where_the_images_want_gradients(network, x, y):
    run = create_attack("pgd", network, **KW).run(x.requires_grad_(), y, record=True)
    assert not any(t.requires_grad for t in (run.x_adv, run.delta, run.deltas, run.losses))
    assert x.grad is None


def test_a_target_is_approached(network, x, y):
    target = (y + 1) % 5
    run = create_attack("pgd", network, targeted=True, **KW).run(x, target, record=True)
    torch.testing.assert_close(run.deltas, rederived(network, x, target, "linf", None, sign=-1, **KW), rtol=0, atol=1e-10)
    assert (run.losses[-1] < run.losses[0]).all()


def test_the_record_is_the_trajectory_and_its_clean_losses(network, x, y):
    run = create_attack("mi", network, **KW).run(x, y, record=True)
    assert run.deltas.shape == (8, *x.shape) and run.losses.shape == (8, 3) and run.losses.dtype == torch.float64
    assert not run.deltas[0].any()
    for t in range(8):
        torch.testing.assert_close(run.losses[t], F.cross_entropy(network(x + run.deltas[t]), y, reduction="none"))
    plain = create_attack("mi", network, **KW).run(x, y)
    assert plain.deltas is None and plain.losses is None and plain.x_adv.equal(run.x_adv)


@pytest.mark.parametrize("norm", ["linf", "l2", "none"])
@pytest.mark.parametrize("name", list_attacks())
def test_a_batch_gives_what_its_images_give_alone_and_alpha_may_differ_by_image(name, norm, network, x, y):
    alpha = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    batch = create_attack(name, network, norm=norm, eps=0.1, alpha=alpha, steps=4)(x, y)
    for i in range(3):
        alone = create_attack(name, network, norm=norm, eps=0.1, alpha=float(alpha[i]), steps=4)(x[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-12)


@settings(max_examples=1000, deadline=None)
@given(
    name=st.sampled_from(list_attacks()), norm=st.sampled_from(["linf", "l2"]), eps=st.floats(1e-3, 3), alpha=st.floats(1e-3, 3),
    steps=st.integers(1, 4), random_start=st.booleans(), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_every_iterate_keeps_the_constraint(name, norm, eps, alpha, steps, random_start, seed, dtype):
    network, x = make_network(seed).to(dtype), make_images(seed).to(dtype)
    run = create_attack(name, network, norm=norm, eps=eps, alpha=alpha, steps=steps, random_start=random_start, seed=seed).run(
        x, torch.tensor([0, 1, 2]), record=True
    )
    size = run.deltas.flatten(2).norm(dim=2) if norm == "l2" else run.deltas.flatten(2).abs().amax(2)
    assert size.max() <= eps + 1e-6
    assert (x + run.deltas).min() >= -1e-6 and (x + run.deltas).max() <= 1 + 1e-6
    assert run.x_adv.dtype == dtype


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_and_follow_the_seed(norm):
    network, x = make_network(), torch.full((400, 1, 6, 6), 0.5, dtype=torch.float64)
    y = torch.zeros(400, dtype=torch.int64)
    torch.manual_seed(3)
    outside = torch.get_rng_state()
    start = lambda seed: create_attack("pgd", network, norm=norm, eps=0.3, steps=1, random_start=True, seed=seed).run(x, y, record=True).deltas[0]
    first = start(0)
    assert first.equal(start(0)) and not first.equal(start(1))
    assert torch.get_rng_state().equal(outside)  # the attack draws from its own generator
    if norm == "linf":
        assert abs(first.mean()) < 0.005 and abs(first.std() - 0.3 / 3**0.5) < 0.005
    else:
        fill = (first.flatten(1).norm(dim=1) / 0.3) ** 36
        assert abs(fill.mean() - 0.5) < 0.05 and fill.max() <= 1


def test_saturated_networks_still_have_a_direction():
    """1 − p_y = e^-40 rounds to 0 in float32; the loss from float64 logits keeps the gradient."""
    network, x = make_network().float(), make_images().float()
    y = network(x).argmax(1)
    gap = network(x).topk(2).values.diff(dim=1).abs().max()
    with torch.no_grad():
        for p in network[-1].parameters():
            p.mul_(40 / gap)
    assert (create_attack("fgsm", network, eps=0.1)(x, y) != x).flatten(1).any(1).all()


def test_where_the_gradient_is_zero_the_attack_stays(x):
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double().eval()
    nn.init.zeros_(network[1].weight)
    for name in list_attacks():
        for norm in ("linf", "l2"):
            torch.testing.assert_close(create_attack(name, network, norm=norm, **KW)(x, torch.tensor([0, 1, 2])), x, rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", list_attacks())
def test_the_model_is_left_as_it_was(name, network, x, y):
    before = snapshot(network)
    with torch.no_grad():  # a caller's no_grad must not break it
        create_attack(name, network, **KW).run(x, y, record=True)
    assert_untouched(network, before)

    class Fails(nn.Module):
        calls = 0

        def forward(self, v):
            Fails.calls += 1
            if Fails.calls > 3:
                raise RuntimeError("out of memory, say")
            return v

    breaking = nn.Sequential(Fails(), network).eval()
    before = snapshot(breaking)
    if name != "fgsm":
        with pytest.raises(RuntimeError, match="out of memory"):
            create_attack(name, breaking, **KW)(x, y)
    assert_untouched(breaking, before)


def test_default_sizes_are_the_papers(network, x, y):
    assert create_attack("pgd", network)(x, y).equal(create_attack("pgd", network, eps=16 / 255, alpha=2 / 255, steps=10)(x, y))
    radius = 16 / 255 * 6
    assert create_attack("pgd", network, norm="l2")(x, y).equal(create_attack("pgd", network, norm="l2", eps=radius, alpha=radius / 8)(x, y))


def test_bad_input_is_refused(network, x, y):
    for kw, error, words in [
        (dict(name="pdg"), ValueError, "unknown attack 'pdg'; did you mean 'pgd'"),
        (dict(norm="l3"), ValueError, "unknown norm 'l3'; did you mean"),
        (dict(eps=0), ValueError, "eps"),
        (dict(eps=-0.1), ValueError, "eps"),
        (dict(eps=math.nan), ValueError, "eps"),
        (dict(alpha=0), ValueError, "alpha"),
        (dict(alpha=torch.tensor([0.1, -0.1, 0.1])), ValueError, "alpha"),
        (dict(steps=0), ValueError, "steps"),
        (dict(steps=1.5), ValueError, "steps"),
        (dict(decay=1.0), TypeError, "attack 'pgd' has no argument 'decay'"),
        (dict(name="mi", dekay=1.0), TypeError, "its own are: decay"),
        (dict(name="mi", decay=-1), ValueError, "decay"),
    ]:
        with pytest.raises(error, match=words):
            create_attack(**(dict(name="pgd", model=network) | kw))
    attack = create_attack("pgd", network)
    for images, labels, error, words in [
        (x * 2, y, ValueError, "normalisation"),
        (x * torch.nan, y, ValueError, "NaN"),
        (x[0], y, ValueError, "shape"),
        (x.float(), y, TypeError, "float32"),
        (x, y + 5, ValueError, "labels"),
        (x, y[:2], ValueError, "shape"),
        (x[:0], y[:0], ValueError, "shape"),
    ]:
        with pytest.raises(error, match=words):
            attack(images, labels)
    with pytest.raises(ValueError, match="give alpha"):
        create_attack("pgd", network, norm="none")(x, y)
    with pytest.raises(ValueError, match="no ball"):
        create_attack("pgd", network, norm="none", alpha=0.1, random_start=True)(x, y)
    with pytest.raises(ValueError, match="one step size an image"):
        create_attack("pgd", network, alpha=torch.ones(2))(x, y)

    class Root(nn.Module):
        def forward(self, v):
            return v.sqrt()

    with pytest.raises(ValueError, match="left the finite numbers"):
        create_attack("pgd", nn.Sequential(Root(), network).eval(), norm="none", alpha=0.1)(0 * x, y)
    with pytest.raises(ValueError, match="train mode"):
        create_attack("pgd", network.train())


def test_each_slot_does_its_part_and_knows_no_other(network, x, y):
    """An attack with all five slots filled, against the same written out: the altered network propagates, the base point alone is moved,
    the objective sees base and δ apart, the direction remembers, the projection has the last word."""
    entered = []

    @contextlib.contextmanager
    def doubled(model):
        entered.append("in")
        handle = model[-1].register_forward_hook(lambda m, i, z: 2 * z)
        try:
            yield model
        finally:
            handle.remove()
            entered.append("out")

    class Halving:
        def step(self, x, delta, direction, alpha):
            return (delta + alpha * direction) / 2

    filled = replace(
        create_attack("pgd", network, norm="none", alpha=0.3, steps=3),
        network=doubled,
        objective=lambda source, base, delta, y: source(base + delta + delta**2).gather(1, y[:, None])[:, 0],
        sampling=lambda loss, x, delta: (loop.gradient(loss, x + 0.1, delta) + loop.gradient(loss, x - 0.1, delta)) / 2,
        direction=lambda g, past: (g + (0 if past is None else past), g),
        projection=Halving(),
    )
    run = filled.run(x, y, record=True)
    for image, label, found in zip(x, y, run.deltas.unbind(1), strict=True):
        delta, past = torch.zeros_like(image), 0
        for t in range(3):
            slopes = [torch.autograd.functional.jacobian(lambda d: 2 * network((image + s + d + d**2)[None])[0, label], delta) for s in (0.1, -0.1)]  # noqa: B023
            g = sum(slopes) / 2
            delta, past = (delta + 0.3 * (g + past)) / 2, g
            torch.testing.assert_close(found[t + 1], delta, rtol=0, atol=1e-12)
    torch.testing.assert_close(run.losses[0], F.cross_entropy(network(x), y, reduction="none"))  # of the network as it is
    assert entered == ["in", "out"]

    before = snapshot(network)

    def breaks(loss, x, delta):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        replace(filled, sampling=breaks)(x, y)
    assert entered == ["in", "out"] * 2
    assert_untouched(network, before)
