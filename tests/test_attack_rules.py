"""Each method's published rule written out slowly, image by image and without irlib, against what `create_attack` does, at every step."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd.functional import jacobian, vjp

from irlib import create_attack
from irlib.attacks import loop
from tests.conftest import make_images, make_network, make_resnet

KW = dict(eps=0.06, alpha=0.015, steps=5)


@pytest.fixture
def network():
    return make_resnet()


@pytest.fixture
def tape(monkeypatch):
    """What the attack draws: every batch of random numbers, in the order in which it was asked for."""
    drawn = []

    class Tape:
        def __init__(self, x, seed):
            self.batch, self.generator = len(x), torch.Generator().manual_seed(seed)

        def _kept(self, values):
            drawn.append(values)
            return values

        def uniform(self, *shape):
            return self._kept(torch.rand(self.batch, *shape, generator=self.generator, dtype=torch.float64))

        def normal(self, *shape):
            return self._kept(torch.randn(self.batch, *shape, generator=self.generator, dtype=torch.float64))

        def integers(self, high, *shape):
            return self._kept(torch.randint(high, (self.batch, *shape), generator=self.generator))

    monkeypatch.setattr(loop, "Draws", Tape)
    return drawn


# ---- the network by hand: what each method changes in it is a callable


def forward(net, v, relu=torch.relu, branch=lambda i, b: b, shortcut=lambda i, s: s, after=lambda i, v: v, until=None):
    """Logits of one image, or the output of block ``until``; ``i`` counts the blocks."""
    v = relu(net.bn(net.conv(v[None])))
    for i, block in enumerate((net.one, net.two)):
        b = block.bn2(block.conv2(relu(block.bn1(block.conv1(v)))))
        s = v if block.downsample is None else block.downsample(v)
        v = after(i, relu(branch(i, b) + shortcut(i, s)))
        if until == i:
            return v[0]
    return net.fc(v.flatten(1))[0]


def loss_gradient(f, image, label):
    """∇ −log softmax(f)_label, from the Jacobian of the logits."""
    p = f(image).softmax(0).detach()
    p[label] -= 1
    return torch.tensordot(p, jacobian(f, image), 1)


def test_the_network_by_hand_is_the_network(network):
    x = make_images()
    torch.testing.assert_close(torch.stack([forward(network, v) for v in x]), network(x), rtol=0, atol=1e-12)


# ---- the loop by hand


def linf_path(image, gradient, eps, alpha, steps, decay=None):
    """δ at every step: sign steps clipped to the ball and to [0, 1], along momentum where there is a decay."""
    delta, m, path = torch.zeros_like(image), torch.zeros_like(image), []
    for t in range(steps):
        g = gradient(delta, t)
        if decay is not None:
            m = decay * m + g / g.abs().sum()
            g = m
        for i in itertools.product(*map(range, delta.shape)):
            moved = delta[i] + alpha * (float(g[i] > 0) - float(g[i] < 0))
            delta[i] = min(max(image[i] + min(max(moved, -eps), eps), 0), 1) - image[i]
        path.append(delta.clone())
    return torch.stack(path)


def raw_path(image, step, steps):
    delta, path = torch.zeros_like(image), []
    for t in range(steps):
        delta = step(delta, t)
        path.append(delta)
    return torch.stack(path)


def compare(name, network, gradient_of, decay=None, more=None, tape=None, raw=True, **args):
    """Run the attack, then each image's path with gradient_of(i, image, label) -> (δ, step) -> gradient; then without sign and ball as well."""
    x = make_images()
    y = network(x).argmax(1)
    args |= more or {}
    run = create_attack(name, network, **KW, **args).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        expected = linf_path(image, gradient_of(i, image, label), decay=decay, **KW)
        torch.testing.assert_close(run.deltas[1:, i], expected, rtol=0, atol=1e-10)
    assert run.delta.abs().max() > 0.9 * KW["eps"]  # the ball was reached: clipping was tested too
    if not raw:
        return
    if tape is not None:
        tape.clear()
    run = create_attack(name, network, norm="none", alpha=0.4, steps=2, **args).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        gradient, m = gradient_of(i, image, label), torch.zeros_like(image)

        def step(d, t, gradient=gradient):
            nonlocal m
            g = gradient(d, t)
            m = g if decay is None else decay * m + g / g.abs().sum()
            return d + 0.4 * m

        torch.testing.assert_close(run.deltas[1:, i], raw_path(image, step, 2), rtol=0, atol=1e-10)


# ---- direction


def kernel(size):
    points = [-3 + 6 * i / (size - 1) for i in range(size)]
    weights = torch.tensor([[math.exp(-(a * a + b * b) / 2) for b in points] for a in points], dtype=torch.float64)
    return weights / weights.sum()


def convolved(v, weights):
    out, half = torch.zeros_like(v), len(weights) // 2
    for c, r, s in itertools.product(*map(range, v.shape)):
        for a, b in itertools.product(range(len(weights)), repeat=2):
            rr, ss = r + a - half, s + b - half
            if 0 <= rr < v.shape[1] and 0 <= ss < v.shape[2]:
                out[c, r, s] += weights[a, b] * v[c, rr, ss]
    return out


@pytest.mark.parametrize("name", ["ti", "ti+mi", "mi+ti"])
def test_ti_smooths_the_gradient_and_momentum_collects_it_smoothed(name, network):
    smooth = lambda i, image, label: lambda d, t: convolved(loss_gradient(lambda v: forward(network, v), image + d, label), kernel(5))
    compare(name, network, smooth, decay=1.0 if "mi" in name else None, kernel_size=5)


def test_the_published_kernel_shrinks_with_the_image():
    from irlib.attacks.ti import gaussian_line, scaled_size

    assert [scaled_size(side) for side in (28, 112, 224, 299)] == [3, 7, 15, 15]
    torch.testing.assert_close(torch.outer(gaussian_line(15), gaussian_line(15)), kernel(15), rtol=0, atol=1e-15)


# ---- sampling


def test_vr_averages_over_noise_at_x(network, tape):
    def gradient_of(i, image, label):
        at = lambda d, t, k: loss_gradient(lambda v: forward(network, v), image + tape[3 * t + k][i] * 0.1 + d, label)
        return lambda d, t: sum(at(d, t, k) for k in range(3)) / 3

    compare("vr", network, gradient_of, sigma=0.1, samples=3, tape=tape)


def resize_matrix(size, to):
    """(to, size): bilinear interpolation of a line, half-pixel centres."""
    out = torch.zeros(to, size, dtype=torch.float64)
    for i in range(to):
        at = max((i + 0.5) * size / to - 0.5, 0.0)
        low = min(int(at), size - 1)
        high = min(low + 1, size - 1)
        out[i, low] += 1 - (at - low)
        out[i, high] += at - low
    return out


@pytest.mark.parametrize("prob", [0.6, 1.0])
def test_di_resizes_pads_and_comes_back(prob, tape):
    """On 20×20 images, so that the canvas of 330/299, 22 wide, leaves room to choose."""
    torch.manual_seed(2)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(400, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4)).double().eval()
    x = make_images(3, batch=4, size=20)
    y = network(x).argmax(1)
    run = create_attack("di", network, prob=prob, **KW).run(x, y, record=True)
    sizes = set()
    for i, (image, label) in enumerate(zip(x, y, strict=True)):

        def gradient(d, t, i=i, image=image, label=label):
            u, v, top, left = tape[t][i].tolist()
            if u >= prob:
                return loss_gradient(lambda w: network(w[None])[0], image + d, label)
            size = 20 + math.floor(v * 2)
            sizes.add(size)
            rows, columns = (torch.zeros(22, 20, dtype=torch.float64) for _ in range(2))
            for matrix, offset in ((rows, top), (columns, left)):
                start = math.floor(offset * (22 - size + 1))
                matrix[start : start + size] = resize_matrix(20, size)
            a, b = (resize_matrix(22, 20) @ m for m in (rows, columns))
            return a.T @ loss_gradient(lambda w: network(w[None])[0], a @ (image + d) @ b.T, label) @ b

        torch.testing.assert_close(run.deltas[1:, i], linf_path(image, gradient, **KW), rtol=0, atol=1e-10)
    assert sizes == {20, 21}


@pytest.mark.parametrize("late", [0, 2])
def test_rap_descends_inside_before_it_ascends(late, network, tape):
    def gradient_of(i, image, label):
        def gradient(d, t):
            at = lambda v: loss_gradient(lambda w: forward(network, w), v, label)
            if t < late:
                return at(image + d)
            r = 0.09 * (2 * tape[t - late][i] - 1)
            for _ in range(3):
                r = (r - 0.03 * at(image + d + r).sign()).clamp(-0.09, 0.09)
            return at(image + d + r)

        return gradient

    compare("rap", network, gradient_of, eps_n=0.09, inner_steps=3, late_start=late, tape=tape)


# ---- network


def backward(network, image, label, through_branch):
    """∇L by hand, block by block; through_branch(block, input, upstream) is the gradient that a branch hands down."""
    stem = lambda v: torch.relu(network.bn(network.conv(v[None])))
    inputs = [stem(image)]
    for block in (network.one, network.two):
        inputs.append(block(inputs[-1]))
    g = loss_gradient(lambda v: network.fc(v.flatten(1))[0], inputs[2], label)
    for block, v in ((network.two, inputs[1]), (network.one, inputs[0])):
        skip = (lambda w: w) if block.downsample is None else block.downsample
        g = g * (block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(v))))) + skip(v) > 0)
        g = vjp(skip, v, g)[1] + through_branch(block, v, g)
    return vjp(stem, image, g)[1]


def branch(block, v):
    return block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(v)))))


def test_the_backward_pass_by_hand_is_the_gradient(network):
    image = make_images()[0]
    plain = backward(network, image, 2, lambda block, v, g: vjp(lambda w: branch(block, w), v, g)[1])
    torch.testing.assert_close(plain, loss_gradient(lambda v: forward(network, v), image, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.3, None])
def test_sgm_damps_what_comes_back_through_a_branch(gamma, network):
    damped = lambda block, v, g: (gamma or 0.2) * vjp(lambda w: branch(block, w), v, g)[1]
    compare("sgm", network, lambda i, image, label: lambda d, t: backward(network, image + d, label, damped), gamma=gamma)


@pytest.mark.parametrize("start", ["one", "two"])
def test_linbp_passes_the_branch_unmasked_at_the_ordinary_length(start, network):
    def through(block, v, g):
        ordinary = vjp(lambda w: branch(block, w), v, g)[1]
        if start == "two" and block is network.one:
            return ordinary
        hidden = block.bn1(block.conv1(v))
        g = vjp(lambda h: block.bn2(block.conv2(h)), torch.relu(hidden), g)[1]
        linear = vjp(lambda w: block.bn1(block.conv1(w)), v, g)[1]
        return linear * math.sqrt((ordinary**2).sum() / (linear**2).sum())

    compare("linbp", network, lambda i, image, label: lambda d, t: backward(network, image + d, label, through), from_layer=start)


@pytest.mark.parametrize("top", [torch.inf, 6.0])
def test_linbp_without_residual_blocks_drops_the_masks_from_its_layer_on(top):
    torch.manual_seed(4)
    cut = (lambda: torch.nn.ReLU(inplace=True)) if top == torch.inf else torch.nn.ReLU6
    network = (
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 9), cut(), torch.nn.Linear(9, 8), cut(), torch.nn.Linear(8, 5)).double().eval()
    )
    first, second, third = (network[i] for i in (1, 3, 5))
    with torch.no_grad():
        first.weight.mul_(30), second.weight.mul_(2)  # so that some units pass 6

    def gradient_of(i, image, label):
        def gradient(d, t):
            h = first((image + d).flatten())
            k = second(h.clamp(0, top))
            assert top == torch.inf or (h > 6).any() or (k > 6).any()
            p = third(k.clamp(0, top)).softmax(0).detach()
            p[label] -= 1
            return (((p @ third.weight) @ second.weight * ((h > 0) & (h < top))) @ first.weight).detach().view_as(image)

        return gradient

    compare("linbp", network, gradient_of, from_layer="3")


def test_ghost_redraws_its_shortcuts_at_every_step(network, tape):
    def gradient_of(i, image, label):
        factor = lambda t: lambda block, s: s * (1 + 0.5 * (2 * tape[2 * t + block][i] - 1))
        return lambda d, t: loss_gradient(lambda v: forward(network, v, shortcut=factor(t)), image + d, label)

    compare("ghost", network, gradient_of, skip_range=0.5, tape=tape)


def test_ghost_drops_features_after_every_block(network, tape):
    def gradient_of(i, image, label):
        kept = lambda t: lambda block, v: v * (tape[2 * t + block][i] >= 0.2) / 0.8
        return lambda d, t: loss_gradient(lambda v: forward(network, v, after=kept(t)), image + d, label)

    compare("ghost", network, gradient_of, dropout=0.2, tape=tape)


def test_ia_smooths_and_scales(network):
    softplus = lambda z: torch.log1p(torch.exp(3 * z)) / 3
    scale = lambda i, b: b * (0.9, 0.4)[i]
    plain = lambda i, image, label: lambda d, t: loss_gradient(lambda v: forward(network, v, relu=softplus, branch=scale), image + d, label)
    compare("ia", network, plain, beta=3.0, residual_scale=(0.9, 0.4))


def test_fd_ascends_the_probability_of_the_targets_head(network):
    heads, x = make_network(3), make_images()
    target = (network(x).argmax(1) + 1) % 5
    run = create_attack("fd", network, heads=heads, targeted=True, **KW).run(x, target, record=True)
    for i, (image, label) in enumerate(zip(x, target, strict=True)):
        gradient = lambda d, t, image=image, label=label: jacobian(lambda v: heads(v[None])[0, label].sigmoid(), image + d)
        torch.testing.assert_close(run.deltas[1:, i], linf_path(image, gradient, decay=1.0, **KW), rtol=0, atol=1e-10)
    compare("fd", network, lambda i, image, label: lambda d, t: -jacobian(lambda v: heads(v[None])[0, label].sigmoid(), image + d), 1.0, heads=heads)


# ---- objective


@pytest.mark.parametrize("name", ["il", "mi+il"])
def test_il_goes_further_along_the_feature_change_of_a_first_attack(name, network):
    decay = 1.0 if "mi" in name else None

    def gradient_of(i, image, label):
        f = lambda v: forward(network, v, until=0)
        plain = lambda d, t: loss_gradient(lambda v: forward(network, v), image + d, label)
        base = linf_path(image, plain, eps=KW["eps"], alpha=0.02, steps=3, decay=decay)[-1]
        change = (f(image + base) - f(image)).detach()
        return lambda d, t: jacobian(lambda v: ((f(v) - f(image)) * change).sum(), image + d)

    compare(name, network, gradient_of, decay=decay, base_steps=3, base_alpha=0.02, raw=False)


def test_aa_approaches_the_features_of_its_guide(network):
    guides = make_images(5)
    f = lambda v: forward(network, v, until=0)
    towards = lambda i, image, label: lambda d, t: -jacobian(lambda v: ((f(v) - f(guides[i])) ** 2).sum().sqrt(), image + d)
    compare("aa", network, towards, decay=1.0, guide=guides)
    one = create_attack("aa", network, guide=guides[:1], **KW)
    x = make_images()
    y = network(x).argmax(1)
    torch.testing.assert_close(one(x, y), create_attack("aa", network, guide=guides[:1].expand(3, -1, -1, -1), **KW)(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("decay", [1.0, 0.0])
def test_fi_descends_the_important_features(decay, network, tape):
    def gradient_of(i, image, label):
        f = lambda v: forward(network, v, until=0)
        logit = lambda h: network.fc(network.two(h[None]).flatten(1))[0, label]
        w = sum(jacobian(logit, f(image * (tape[n][i] < 0.8)).detach()) for n in range(4))
        w = w / (w**2).sum().sqrt()
        return lambda d, t: -jacobian(lambda v: (w * f(v)).sum(), image + d)

    compare("fi", network, gradient_of, decay, {"decay": decay}, masks=4, keep=0.8, tape=tape)


def masked(delta, cells, keep):
    out = torch.zeros_like(delta)
    for c, r, s in itertools.product(*map(range, delta.shape)):
        out[c, r, s] = delta[c, r, s] if (cells[r][s] in keep) else 0.0
    return out


CELLS = [[(r // 2) * 3 + s // 2 for s in range(6)] for r in range(6)]  # a grid of 3×3 on 6×6 pixels
EVERY = set(range(9))


@pytest.mark.parametrize("utility", ["ce", "margin"])
@pytest.mark.parametrize("scaling", ["authors", "paper"])
def test_ir_subtracts_the_interaction(utility, scaling, network, tape):
    def gradient_of(i, image, label):
        def gradient(d, t):
            f = lambda v: forward(network, v)
            z = f(image + d).detach()
            z[label] = -torch.inf
            rival = int(z.argmax())

            def utility_gradient(keep):
                at = image + masked(d, CELLS, keep)
                g = loss_gradient(f, at, label) if utility == "ce" else jacobian(lambda v: f(v)[rival] - f(v)[label], at)
                return masked(g, CELLS, keep)

            contrast = 0
            for cells in tape[t][i].tolist():
                contrast = contrast + utility_gradient(EVERY) - utility_gradient(EVERY - set(cells)) - utility_gradient(set(cells))
            pairs = sum(len(set(c)) * (9 - len(set(c))) for c in itertools.product(range(9), repeat=3)) / 9**3
            return loss_gradient(f, image + d, label) - 0.7 * contrast / 4 / (1 if scaling == "authors" else pairs)

        return gradient

    authors = dict(grid=3, draws=4, coalition=3, sampler="authors")
    compare("ir", network, gradient_of, lam=0.7, utility=utility, scaling=scaling, tape=tape, **authors)


STRATA = [[(0, 0), (0, 1), (1, 0)], [(1, 1), (0, 2), (1, 2)], [(2, 0), (2, 1), (2, 2)]]  # the 3×3 cells in Z-order, three at a time


def test_by_default_the_coalitions_have_a_cell_of_each_patch(network, tape):
    """Six draws from nine cells in three blocks of three: two rounds. Within a patch the cells go in the order of their numbers."""

    def gradient_of(i, image, label):
        def gradient(d, t):
            numbers, start = tape[2 * t][i], tape[2 * t + 1][i]
            at = lambda keep: masked(loss_gradient(lambda v: forward(network, v), image + masked(d, CELLS, keep), label), CELLS, keep)
            blocks = []
            for k in range(2):
                members = [set(), set(), set()]
                for patch in STRATA:
                    for place, (_, cell) in enumerate(sorted((numbers[k, 3 * r + c].item(), 3 * r + c) for r, c in patch)):
                        members[(place + int(start[k, 0])) % 3].add(cell)
                blocks += members
            contrast = sum(at(EVERY) - at(EVERY - A) - at(A) for A in blocks) / 6
            return at(EVERY) - 0.7 * contrast / (3 * 6) * (9 * 8 * (8 / 9 - 7 / 9))  # pairs of ours, and of the authors' single cell of nine

        return gradient

    compare("ir", network, gradient_of, lam=0.7, grid=3, draws=6, coalition=3, tape=tape)


def test_vr_ir_has_the_noise_in_the_interaction(network, tape):
    """Eq. 333; for each copy the noise is drawn, then the coalitions."""

    def gradient_of(i, image, label):
        def gradient(d, t):
            total = 0
            for k in range(2):
                noisy, cells = image + 0.1 * tape[4 * t + 2 * k][i], tape[4 * t + 2 * k + 1][i]
                at = lambda keep, noisy=noisy: masked(
                    loss_gradient(lambda v: forward(network, v), noisy + masked(d, CELLS, keep), label), CELLS, keep
                )
                contrast = sum(at(EVERY) - at(EVERY - set(c)) - at(set(c)) for c in cells.tolist()) / 3
                total = total + at(EVERY) - contrast
            return total / 2

        return gradient

    compare("vr+ir", network, gradient_of, sigma=0.1, samples=2, grid=3, draws=3, coalition=2, sampler="authors", tape=tape)


def test_ghost_ir_measures_the_interaction_in_one_ghost_network(network, tape):
    """The coalitions are drawn at the start of a step, the factors when the first copy of the images meets each block; all copies then share them."""

    def gradient_of(i, image, label):
        def gradient(d, t):
            cells, first = tape[3 * t][i], 3 * t + 1
            eroded = lambda v: forward(network, v, shortcut=lambda block, s: s * (1 + 0.5 * (2 * tape[first + block][i] - 1)))
            at = lambda keep: masked(loss_gradient(eroded, image + masked(d, CELLS, keep), label), CELLS, keep)
            contrast = sum(at(EVERY) - at(EVERY - set(c)) - at(set(c)) for c in cells.tolist()) / 3
            return at(EVERY) - 0.8 * contrast

        return gradient

    compare("ghost+ir", network, gradient_of, skip_range=0.5, lam=0.8, grid=3, draws=3, coalition=2, sampler="authors", tape=tape)


def test_interaction_alone_starts_somewhere(network, tape):
    x = make_images()
    y = network(x).argmax(1)
    run = create_attack("ir", network, lam=math.inf, random_start=True, grid=3, draws=2, coalition=2, sampler="authors", **KW).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        delta = (image + KW["eps"] * (2 * tape[0][i] - 1)).clamp(0, 1) - image
        torch.testing.assert_close(run.deltas[0, i], delta, rtol=0, atol=1e-12)
        at = lambda keep, d, image=image, label=label: masked(
            loss_gradient(lambda v: forward(network, v), image + masked(d, CELLS, keep), label), CELLS, keep
        )
        g = -sum(at(EVERY, delta) - at(EVERY - set(c), delta) - at(set(c), delta) for c in tape[1][i].tolist())
        expected = (image + (delta + KW["alpha"] * g.sign()).clamp(-KW["eps"], KW["eps"])).clamp(0, 1) - image
        torch.testing.assert_close(run.deltas[1, i], expected, rtol=0, atol=1e-10)


def test_the_control_averages_over_dropped_patches(network, tape):
    def gradient_of(i, image, label):
        def gradient(d, t):
            total = 0
            for order in tape[t][i]:
                dropped = set(order.argsort()[:4].tolist())
                keep = EVERY - dropped
                total = total + masked(loss_gradient(lambda v: forward(network, v), image + masked(d, CELLS, keep), label), CELLS, keep)
            return total / 5

        return gradient

    compare("ir", network, gradient_of, control=True, grid=3, draws=2, tape=tape)


def test_a_target_turns_the_sign_of_the_whole_reward(network):
    x = make_images()
    target = (network(x).argmax(1) + 1) % 5
    attack = create_attack("ir", network, targeted=True, grid=3, draws=3, lam=0.5, **KW)
    other = create_attack("ir", network, grid=3, draws=3, lam=0.5, **KW)
    first = attack.run(x, target, record=True).deltas[1:3]
    ascent = other.run(x, target, record=True).deltas[1:3]
    torch.testing.assert_close(first[0], -ascent[0], rtol=0, atol=1e-12)


# ---- projection


def shared(v, size):
    weights = torch.full((size, size), 1 / (size**2 - 1), dtype=torch.float64)
    weights[size // 2, size // 2] = 0
    return convolved(v, weights)


@pytest.mark.parametrize(("size", "alpha"), [(3, 0.004), (5, None)])
def test_pi_hands_the_excess_to_the_neighbours(size, alpha, network):
    x, eps, steps = make_images(), 0.06, 6
    y = network(x).argmax(1)
    run = create_attack("pi", network, eps=eps, alpha=alpha, steps=steps, amplification=4.0, kernel_size=size).run(x, y, record=True)
    long = 4.0 * (alpha or eps / steps)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        adv, a, excess = image.clone(), torch.zeros_like(image), 0.0
        for t in range(steps):
            g = loss_gradient(lambda v: forward(network, v), adv, label).sign()
            a = a + long * g
            cut = (a.abs() - eps).clamp(0, math.inf) * a.sign()
            v = shared(cut, size)
            handed = long * torch.where(v.abs() < 1e-12, 0, v).sign()  # equal excesses of opposite sign cancel
            a = a + handed
            adv = torch.minimum(torch.maximum(adv + long * g + handed, image - eps), image + eps).clamp(0, 1)
            excess = max(excess, float(cut.abs().max()))
            torch.testing.assert_close(run.deltas[t + 1, i], adv - image, rtol=0, atol=1e-10)
        assert excess > 0


# ---- the idealised recursions, on networks


@pytest.mark.parametrize("name", ["mi", "rap", "pi", "il"])
def test_idealised_forms_follow_the_recursion_of_their_proof(name, network):
    x, alpha, steps = make_images(), 0.15, 6
    y = network(x).argmax(1)
    extra = {"rap": {"inner_steps": 3}, "il": {"base_steps": 4, "base_alpha": 0.2}, "pi": {"eps": 0.002}}.get(name, {})
    run = create_attack(name, network, idealised=True, alpha=alpha, steps=steps, **extra).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        grad = lambda d, image=image, label=label: loss_gradient(lambda v: forward(network, v), image + d, label)
        mean = torch.zeros_like(image)

        def mi(d, t, grad=grad):
            nonlocal mean
            mean = (t * mean + grad(d)) / (t + 1)
            return d + alpha * mean

        def rap(d, t, grad=grad):
            r = torch.zeros_like(d)
            for _ in range(3):
                r = r - alpha * grad(d + r)
            return d + alpha * grad(d + r)

        def pi(d, t, grad=grad):
            g, tau = alpha * grad(d), torch.zeros_like(d)
            for k in itertools.product(*map(range, d.shape)):
                over = d[k] + g[k] - max(min(d[k] + g[k], 0.002), -0.002)
                tau[k] = min(max(over / g[k], 0), 1) if g[k] else 0.0
            return d + (1 - tau) * g + shared(tau * g, 3)

        base = raw_path(image, lambda d, t, grad=grad: d + 0.2 * grad(d), 4)[-1]
        expected = raw_path(image, {"mi": mi, "rap": rap, "pi": pi, "il": lambda d, t, base=base: d + alpha * base}[name], steps)
        torch.testing.assert_close(run.deltas[1:, i], expected, rtol=0, atol=1e-10)
    if name == "pi":
        assert run.delta.abs().max() > 0.002  # there was an excess to share


# ---- an ensemble, and several slots at once


def test_an_ensemble_is_the_mean_of_its_members_logits(network):
    other = make_resnet(1)
    both = lambda v: (forward(network, v) + forward(other, v)) / 2
    x = make_images()
    y = network(x).argmax(1)
    run = create_attack("pgd", [network, other], **KW).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        expected = linf_path(image, lambda d, t, image=image, label=label: loss_gradient(both, image + d, label), **KW)
        torch.testing.assert_close(run.deltas[1:, i], expected, rtol=0, atol=1e-10)
    loss = torch.stack([F.cross_entropy(both(v)[None], label[None]) for v, label in zip(x, y, strict=True)])
    torch.testing.assert_close(run.losses[0], loss.detach(), rtol=0, atol=1e-12)


def test_il_on_an_ensemble_adds_its_members_features_up(network):
    other = make_resnet(1)
    both = lambda v: (forward(network, v) + forward(other, v)) / 2
    places = ((network, 0), (other, 1))
    x = make_images()
    y = network(x).argmax(1)
    run = create_attack("il", [network, other], layer=("one", "two"), base_steps=2, **KW).run(x, y, record=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        plain = lambda d, t, image=image, label=label: loss_gradient(both, image + d, label)
        base = linf_path(image, plain, eps=KW["eps"], alpha=KW["alpha"], steps=2)[-1]
        changes = [(forward(n, image + base, until=k) - forward(n, image, until=k)).detach() for n, k in places]
        ahead = lambda v, changes=changes: sum((forward(n, v, until=k) * c).sum() for (n, k), c in zip(places, changes, strict=True))
        expected = linf_path(image, lambda d, t, image=image, ahead=ahead: jacobian(ahead, image + d), **KW)
        torch.testing.assert_close(run.deltas[1:, i], expected, rtol=0, atol=1e-10)


def test_hybrid_ir_fills_four_slots(network, tape):
    """MI, VR, SGM and IR: noise and coalitions for every copy, branches damped, momentum last."""
    damped = lambda block, v, g: 0.3 * vjp(lambda w: branch(block, w), v, g)[1]

    def gradient_of(i, image, label):
        def gradient(d, t):
            total = 0
            for k in range(2):
                noisy, cells = image + 0.1 * tape[4 * t + 2 * k][i], tape[4 * t + 2 * k + 1][i]
                at = lambda keep, noisy=noisy: masked(backward(network, noisy + masked(d, CELLS, keep), label, damped), CELLS, keep)
                contrast = sum(at(EVERY) - at(EVERY - set(c)) - at(set(c)) for c in cells.tolist()) / 2
                total = total + at(EVERY) - 0.5 * contrast
            return total / 2

        return gradient

    compare(
        "hybrid-ir",
        network,
        gradient_of,
        decay=1.0,
        sigma=0.1,
        samples=2,
        gamma=0.3,
        lam=0.5,
        grid=3,
        draws=2,
        coalition=2,
        sampler="authors",
        tape=tape,
    )
