"""The loop and its slots: PGD and MI step by step under every norm, constraints, batches, seeds, the model afterwards, bad input."""

import contextlib
import functools
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
from tests.conftest import TinyResNet, assert_untouched, make_images, make_network, make_resnet, needed, snapshot

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


COMBINED = ["di+mi+ti", "ghost+sgm+vr", "linbp+rap", "ia+pi", "mi+il", "sgm+ti+ir"]
RANDOM = ["di", "fi", "ghost", "hybrid-ir", "ir", "rap", "vr", "di+mi+ti", "ghost+sgm+vr", "linbp+rap", "sgm+ti+ir"]


def few(name):
    """What the parts of a combination need, in few draws."""
    known = {key: value for part in name.split("+") for key, value in needed(part).items()}
    return known | ({"prob": 0.9} if "di" in name else {})


@pytest.mark.parametrize("norm", ["linf", "l2", "none"])
@pytest.mark.parametrize("name", list_attacks() + COMBINED)
def test_a_batch_gives_what_its_images_give_alone_and_alpha_may_differ_by_image(name, norm, resnet, x):
    if "pi" in name and norm != "linf":
        return
    y = resnet(x).argmax(1)
    alpha = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    kw = dict(norm=norm, eps=0.1, steps=3, random_start=norm != "none", **few(name))
    batch = create_attack(name, resnet, alpha=alpha, **kw)(x, y)
    for i in range(3):
        alone = create_attack(name, resnet, alpha=float(alpha[i]), **kw)(x[i : i + 1], y[i : i + 1])
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=1e-12)


@functools.cache
def networks(dtype):
    return make_resnet().to(dtype), make_network(7).to(dtype)


@settings(max_examples=1000, deadline=None)
@given(
    name=st.sampled_from(list_attacks() + COMBINED), norm=st.sampled_from(["linf", "l2"]), eps=st.floats(1e-3, 3), alpha=st.floats(1e-3, 3),
    steps=st.integers(1, 3), random_start=st.booleans(), seed=st.integers(0, 99), dtype=st.sampled_from([torch.float32, torch.float64]),
)  # fmt: skip
def test_every_iterate_keeps_the_constraint(name, norm, eps, alpha, steps, random_start, seed, dtype):
    network, heads = networks(dtype)
    args = few(name) | ({"heads": heads} if name == "fd" else {"guide": make_images(9, batch=1).to(dtype)} if name == "aa" else {})
    x = make_images(seed, batch=2).to(dtype)
    attack = functools.partial(
        create_attack, name, network, norm=norm, eps=eps, alpha=alpha, steps=steps, random_start=random_start, seed=seed, **args
    )
    if "pi" in name and norm == "l2":
        with pytest.raises(ValueError, match="norm='linf'"):
            attack()
        return
    run = attack().run(x, torch.tensor([0, 1]), record=True)
    size = run.deltas.flatten(2).norm(dim=2) if norm == "l2" else run.deltas.flatten(2).abs().amax(2)
    assert size.max() <= eps + 1e-6
    assert (x + run.deltas).min() >= -1e-6 and (x + run.deltas).max() <= 1 + 1e-6
    assert run.x_adv.dtype == dtype


@pytest.mark.parametrize("name", list_attacks() + COMBINED)
def test_a_seed_gives_one_result_and_the_global_generator_is_left_alone(name, resnet, x):
    y, args = resnet(x).argmax(1), few(name)
    outside = torch.get_rng_state()
    norm = "linf" if "pi" in name else "l2"  # a sign step may hide a draw
    attack = lambda seed: create_attack(name, resnet, norm=norm, steps=2, seed=seed, **args).run(x, y).delta
    first = attack(5)
    assert first.equal(attack(5))
    assert first.equal(attack(6)) == (name not in RANDOM)
    assert torch.get_rng_state().equal(outside)


PLAIN = {
    "vr": dict(sigma=0.0, samples=3), "sgm": dict(gamma=1.0), "ti": dict(kernel_size=1), "di": dict(prob=0.0), "rap": dict(eps_n=0.0),
    "ghost": dict(skip_range=0.0, dropout=0.0), "linbp": dict(from_layer="fc"), "ir": dict(lam=0.0, grid=3, draws=2), "mi": dict(decay=0.0),
}  # fmt: skip


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("name", PLAIN)
def test_with_nothing_in_its_slot_every_method_is_pgd(name, norm, resnet, x):
    y = resnet(x).argmax(1)
    kw = KW | dict(norm=norm) | ({"alpha": 0.3, "eps": 0.9} if norm == "l2" else {})
    plain = create_attack("pgd", resnet, **kw).run(x, y, record=True)
    found = create_attack(name, resnet, **kw, **PLAIN[name]).run(x, y, record=True)
    torch.testing.assert_close(found.deltas, plain.deltas, rtol=0, atol=1e-12)
    other = {"mi": dict(decay=1.0), "linbp": dict(from_layer="one"), "ir": dict(lam=5.0, grid=3), "ghost": dict(skip_range=0.5)}.get(name, few(name))
    assert not create_attack(name, resnet, **kw, **other | ({"kernel_size": 5} if name == "ti" else {}))(x, y).equal(plain.x_adv)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_fill_the_ball_and_follow_the_seed(norm):
    network, x = make_network(), 0.5 + 1e-6 * torch.arange(400, dtype=torch.float64).view(400, 1, 1, 1).expand(-1, 1, 6, 6)
    y = torch.zeros(400, dtype=torch.int64)
    start = lambda seed: create_attack("pgd", network, norm=norm, eps=0.3, steps=1, random_start=True, seed=seed).run(x, y, record=True).deltas[0]
    first = start(0)
    assert first.equal(start(0)) and not first.equal(start(1))
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


@pytest.mark.parametrize("name", ["fgsm", "pgd", "mi", "ti", "vr", "di", "rap", "ia", "linbp", "pi", "ir"])
def test_where_the_gradient_is_zero_the_attack_stays(name, x):
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(36, 3)).double().eval()
    nn.init.zeros_(network[2].weight)
    args = {"linbp": {"from_layer": "1"}}.get(name, few(name))
    for norm in ("linf",) if name == "pi" else ("linf", "l2"):
        torch.testing.assert_close(create_attack(name, network, norm=norm, **KW, **args)(x, torch.tensor([0, 1, 2])), x, rtol=0, atol=1e-15)


class Breaks:
    """A hook that lets so many passes through, and fails then."""

    def __init__(self, passes):
        self.left = passes

    def __call__(self, module, inputs):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of memory, say")


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("name", list_attacks() + COMBINED)
def test_the_model_is_left_as_it_was_also_after_an_error(name, frozen, resnet, x):
    y, args = resnet(x).argmax(1), few(name)
    attacked = [resnet.requires_grad_(not frozen), args["heads"].requires_grad_(not frozen)] if name == "fd" else [resnet.requires_grad_(not frozen)]
    before = [snapshot(m) for m in attacked]
    with torch.no_grad():  # a caller's no_grad must not break it
        create_attack(name, resnet, **KW, **args).run(x, y, record=True)
    for model, was in zip(attacked, before, strict=True):
        assert_untouched(model, was)
    for passes in (0, 1, 3):
        handles = [next(m.children()).register_forward_pre_hook(Breaks(passes)) for m in attacked]
        before = [snapshot(m) for m in attacked]
        if name != "fgsm" or passes == 0:
            with pytest.raises(RuntimeError, match="out of memory"):
                create_attack(name, resnet, **KW, **args)(x, y)
        for model, was in zip(attacked, before, strict=True):
            assert_untouched(model, was)
        for handle in handles:
            handle.remove()
    for model in attacked:
        assert torch.relu(torch.tensor(-1.0)) == 0 and model(x).requires_grad is not frozen


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
        (dict(name="mi+irr"), ValueError, "unknown attack 'irr'; did you mean 'ir'"),
        (dict(name="il+fi"), ValueError, "fi and il each fill the objective slot"),
        (dict(name="ir+aa"), ValueError, "aa and ir each fill the objective slot"),
        (dict(name="fd+sgm"), ValueError, "fd attacks a network of its own, which sgm would not alter"),
        (dict(name="vr", idealised=True), ValueError, "no idealised form of 'vr'; it has one of"),
        (dict(name="mi", idealised=True, norm="l2"), ValueError, "leave norm='l2' out"),
        (dict(name="rap", idealised=True), ValueError, "give alpha"),
        (dict(name="ti", kernel_size=4), ValueError, "odd"),
        (dict(name="vr", sigma=-1), ValueError, "sigma"),
        (dict(name="vr", samples=0), ValueError, "samples"),
        (dict(name="di", prob=1.5), ValueError, "prob"),
        (dict(name="rap", eps_n=-1), ValueError, "eps_n"),
        (dict(name="rap", inner_steps=0), ValueError, "inner_steps"),
        (dict(name="rap", late_start=-1), ValueError, "late_start"),
        (dict(name="pi", amplification=0), ValueError, "amplification"),
        (dict(name="pi", kernel_size=1), ValueError, "kernel_size"),
        (dict(name="pi", norm="l2"), ValueError, "norm='linf'"),
        (dict(name="ia", beta=0), ValueError, "beta"),
        (dict(name="ir", lam=-1), ValueError, "lam"),
        (dict(name="ir", lam=math.nan), ValueError, "lam"),
        (dict(name="ir", lam=math.inf), ValueError, "random_start=True"),
        (dict(name="ir", draws=0), ValueError, "draws"),
        (dict(name="ir", coalition=0), ValueError, "coalition"),
        (dict(name="ir", utility="margins"), ValueError, "did you mean 'margin'"),
        (dict(name="ir", scaling="author"), ValueError, "did you mean 'authors'"),
        (dict(model=[]), ValueError, "at least one model"),
        (dict(model=[network, make_network().float()]), ValueError, "share dtype"),
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
    with pytest.raises(ValueError, match="same classes"):
        create_attack("pgd", [network, make_network(classes=4)])(x, y)
    with pytest.raises(ValueError, match="grid=7 is larger"):
        create_attack("ir", network, grid=7)(x, y)
    with pytest.raises(ValueError, match="train mode"):
        create_attack("pgd", network.train())


def test_a_network_that_lacks_what_a_method_needs_is_refused_by_name(network, resnet, x, y):
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double().eval()
    label = plain(x).argmax(1)
    for name, model, args, words in [
        ("sgm", network, {}, "no residual branch: looked for blocks of the classes BasicBlock"),
        ("hybrid-ir", network, {}, "no residual branch"),
        ("ghost", network, {"skip_range": 0.1}, "needs residual blocks"),
        ("ghost", network, {}, "looked for `layers.blocks` on Sequential"),
        ("ghost", resnet, {"dropout": 1.0}, "dropout"),
        ("ghost", resnet, {"skip_range": -1.0}, "skip_range"),
        ("il", network, {}, "looked for `layers.il` on Sequential.*one of: 0, 1, 2"),
        ("il", network, {"layer": "00"}, "unknown layer '00'"),
        ("il", [network, resnet], {"layer": ("0",)}, "one for each of the 2 models, got 1"),
        ("fi", network, {}, "looked for `layers.fi`"),
        ("fi", resnet, {"targeted": True}, "untargeted"),
        ("fi", resnet, {"keep": 0.0}, "keep"),
        ("fi", resnet, {"masks": 0}, "masks"),
        ("aa", network, {"guide": x}, "looked for `layers.aa`"),
        ("aa", resnet, {}, "needs guide="),
        ("aa", resnet, {"guide": x, "targeted": True}, "leave targeted out"),
        ("aa", resnet, {"guide": x * 3}, "guide must lie in"),
        ("linbp", network, {}, "looked for `layers.linbp`"),
        ("linbp", network, {"from_layer": "12"}, "unknown from_layer '12'"),
        ("fd", network, {}, "looked for `heads` on Sequential"),
    ]:
        with pytest.raises(ValueError, match=words):
            create_attack(name, model, **args)
    for name, args, words in [("linbp", {"from_layer": "0"}, "looked for ReLUs"), ("ia", {}, "called none")]:
        with pytest.raises(ValueError, match=words):
            create_attack(name, plain, **args)(x, label)
    with pytest.raises(ValueError, match=r"one for each of x, shape \(1 or 3, 1, 6, 6\)"):
        create_attack("aa", resnet, guide=x[:2])(x, y)
    with pytest.raises(ValueError, match="labels must lie in 0 … 4"):  # of the heads, which are what the images meet
        create_attack("fd", resnet, heads=make_network(classes=5))(x, y + 5)


class Counted(nn.Module):
    """The network, with the images that enter it and the images whose gradient comes out of it."""

    def __init__(self, network):
        super().__init__()
        self.network, self.rows, self.gradients = network, 0, 0
        self.layers = TinyResNet.layers.inside("network")

    def forward(self, x):
        self.rows += len(x)
        if x.requires_grad:
            x = x.clone()
            x.register_hook(self._count)
        return self.network(x)

    def _count(self, g):
        self.gradients += len(g)


STEPS = 4
PASSES = {  # forwards and backwards of an image, where they are not one of each a step
    "fgsm": (1, 1), "aa": (STEPS + 1, STEPS), "fi": (3 + STEPS, STEPS), "il": (2 + 2 + STEPS, 2 + STEPS), "rap": (3 * STEPS,) * 2,
    "vr": (2 * STEPS,) * 2,
    "ir": (5 * STEPS,) * 2, "hybrid-ir": (2 * 5 * STEPS,) * 2, "fd": (0, 0), "ghost+sgm+vr": (2 * STEPS,) * 2, "linbp+rap": (3 * STEPS,) * 2,
    "mi+il": (2 + 2 + STEPS, 2 + STEPS), "sgm+ti+ir": (5 * STEPS,) * 2,
}  # fmt: skip


@pytest.mark.parametrize("name", list_attacks() + COMBINED)
def test_no_pass_is_made_that_the_rule_does_not_need(name, resnet, x):
    """FI's backward passes for its weights end at the layer; FD's passes are its heads'; IR's empty coalition, constant in δ, is not evaluated."""
    y, model, args = resnet(x).argmax(1), Counted(resnet).eval(), few(name)
    if name == "fd":
        args["heads"] = Counted(make_network(7)).eval()
    create_attack(name, model, steps=STEPS, eps=0.1, alpha=0.02, **args)(x, y)
    assert (model.rows / 3, model.gradients / 3) == PASSES.get(name, (STEPS, STEPS))
    if name == "fd":
        assert (args["heads"].rows / 3, args["heads"].gradients / 3) == (STEPS, STEPS)


def test_linbp_goes_back_through_its_branches_twice_and_through_the_rest_once(resnet, x):
    seen = []
    for name in ("conv", "one.conv1", "two.conv1", "fc"):
        resnet.get_submodule(name).register_full_backward_hook(lambda *_, name=name: seen.append(name))
    create_attack("linbp", resnet, eps=0.1, alpha=0.02, steps=1, from_layer="two")(x, resnet(x).argmax(1))
    assert sorted(seen) == ["conv", "fc", "one.conv1", "two.conv1", "two.conv1"]


def test_early_stopping_reads_the_layer_and_no_more(resnet, x):
    seen = []
    handles = [resnet.two.register_forward_hook(lambda *_: seen.append("two")), resnet.one.register_forward_hook(lambda *_: seen.append("one"))]
    y = resnet(x).argmax(1)
    seen.clear()
    create_attack("aa", resnet, guide=x[:1], steps=3)(x, y)
    assert seen == ["one"] * 4
    for handle in handles:
        handle.remove()


def test_each_slot_does_its_part_and_knows_no_other(network, x, y):
    """An attack with all five slots filled, against the same written out: the altered network propagates, the base point alone is moved,
    the objective sees base and δ apart, the direction remembers, the projection has the last word."""
    entered = []

    @contextlib.contextmanager
    def doubled(model, draws):
        entered.append("in")
        handle = model[-1].register_forward_hook(lambda m, i, z: 2 * z)
        try:
            yield model
        finally:
            handle.remove()
            entered.append("out")

    class Halving:
        def step(self, x, delta, direction, alpha, kept):
            half = (delta + alpha * direction) / 2
            return half + (0 if kept is None else 0.1 * kept), half

    filled = replace(
        create_attack("pgd", network, norm="none", alpha=0.3, steps=3),
        network=doubled,
        objective=lambda opened, x, y, draws: lambda source, base, delta: source(base + delta + delta**2).gather(1, y[:, None])[:, 0],
        sampling=lambda loss, x, delta, draws, step: (loop.gradient(loss, x + 0.1, delta) + loop.gradient(loss, x - 0.1, delta)) / (2 + step),
        direction=lambda g, past: (g + (0 if past is None else past), g),
        projection=Halving(),
    )
    run = filled.run(x, y, record=True)
    for image, label, found in zip(x, y, run.deltas.unbind(1), strict=True):
        delta, past, kept = torch.zeros_like(image), 0, 0
        for t in range(3):
            slopes = [torch.autograd.functional.jacobian(lambda d: 2 * network((image + s + d + d**2)[None])[0, label], delta) for s in (0.1, -0.1)]  # noqa: B023
            g = sum(slopes) / (2 + t)
            half = (delta + 0.3 * (g + past)) / 2
            delta, past, kept = half + 0.1 * kept, g, half
            torch.testing.assert_close(found[t + 1], delta, rtol=0, atol=1e-12)
    torch.testing.assert_close(run.losses[0], F.cross_entropy(network(x), y, reduction="none"))  # of the network as it is
    assert entered == ["in", "out"] * 3  # anew at every step

    before = snapshot(network)

    def breaks(loss, x, delta, draws, step):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        replace(filled, sampling=breaks)(x, y)
    assert entered == ["in", "out"] * 4
    assert_untouched(network, before)


@pytest.mark.parametrize("name", ["mi", "rap", "pi", "il"])
def test_an_alpha_an_image_may_be_of_another_precision_than_the_images(name):
    model, single = make_network().float(), make_images().float()
    alpha = torch.tensor([0.01, 0.02, 0.03], dtype=torch.float64)
    found = [create_attack(name, model, idealised=True, alpha=a, steps=2).run(single, torch.tensor([1, 2, 0])).delta for a in (alpha, alpha.float())]
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(*found)
