"""What the zoo is trained for, against plain re-derivations."""

import torch
import torch.nn.functional as F
from torch import nn

from irlib.draws import Draws
from irlib.zoo.objectives import Intrinsic, OneVsRest, Resist, ResistEnsemble, divergence, robust_accuracy


def network(seed=0, smooth=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.Softplus(beta=3) if smooth else nn.ReLU(), nn.Linear(12, 3)).double()


def images(n=6, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 1, 4, 4, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def pgd(model, x, y, start, eps, alpha, steps):
    """Written down by hand: image by image, pixel by pixel only where it must be."""
    out = []
    for image, label, d in zip(x, y, start, strict=True):
        d = ((image + d.clamp(-eps, eps)).clamp(0, 1) - image).clone()
        for _ in range(steps):
            v = (image + d).clone().requires_grad_()
            (g,) = torch.autograd.grad(-F.log_softmax(model(v[None]), 1)[0, label], v)
            d = (image + (d + alpha * g.sign()).clamp(-eps, eps)).clamp(0, 1) - image
        out.append(image + d)
    return torch.stack(out)


def test_adversarial_training_ascends_from_a_random_start_in_eval_mode():
    model, (x, y) = network().train(), images()
    model(x)  # moves the running statistics off their start
    model[2].momentum = 0.0
    eps, generator = 0.1, torch.Generator().manual_seed(5)
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(5)))
    noise = Draws(x, seed).uniform(*x.shape[1:])
    attacked = pgd(model.eval(), x, y, eps * (2 * noise - 1), eps, 2.5 * eps / 3, 3)
    assert (attacked - x).abs().max() > eps / 2
    expected = F.cross_entropy(model.train()(attacked), y)
    torch.testing.assert_close(Resist(eps).loss(model, x, y, generator), expected)
    assert model.training


def test_ensemble_training_attacks_half_a_batch_on_one_of_its_sources():
    model, static, (x, y) = network().train(), [network(s).eval() for s in (7, 8)], images()
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.momentum = 0.0
    objective, used = ResistEnsemble(static, max_eps=0.2), set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        source = int(torch.randint(3, (), generator=generator))
        eps = float((torch.randn((), generator=generator).abs() * 0.1).clamp(1e-6, 0.2))
        attacked = pgd([*static, model.eval()][source], x[:3], y[:3], torch.zeros_like(x[:3]), eps, eps, 1)
        expected = F.cross_entropy(model.train()(torch.cat([attacked, x[3:]])), y)
        torch.testing.assert_close(objective.loss(model, x, y, torch.Generator().manual_seed(seed)), expected)
        used.add(source)
    assert used == {0, 1, 2}


def test_the_divergence_is_the_trace_of_the_normalised_gradients_jacobian():
    """Hutchinson's mean against the dense Jacobian, and its variance against 2·Σ_{i≠j} S_ij², image by image."""
    model, (x, y) = network(smooth=True).eval(), images()
    found = divergence(model, x, y, 4000, torch.Generator().manual_seed(0)).detach()
    for i in range(len(x)):

        def direction(v, i=i):
            (g,) = torch.autograd.grad(F.log_softmax(model(v.reshape(1, 1, 4, 4)), 1)[0, y[i]], v, create_graph=True)
            return g / g.norm()

        jacobian = torch.autograd.functional.jacobian(direction, x[i].flatten().requires_grad_())
        symmetric = (jacobian + jacobian.T) / 2
        variance = 2 * (symmetric.square().sum() - symmetric.diag().square().sum())
        assert abs(found[i].mean() - jacobian.trace()) < 5 * (variance / 4000) ** 0.5
        assert abs(found[i].var() / variance - 1) < 0.2


def test_its_gradient_in_the_weights_is_that_of_finite_differences():
    model, (x, y) = network(smooth=True).eval(), images()
    value = lambda: Intrinsic(weight=0.3, share=0.5).loss(model, x, y, torch.Generator().manual_seed(2))
    weight = model[1].weight
    (g,) = torch.autograd.grad(value(), weight)
    step = torch.randn(weight.shape, dtype=weight.dtype, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        weight += 1e-5 * step
    up = value().item()
    with torch.no_grad():
        weight -= 2e-5 * step
    down = value().item()
    assert abs((up - down) / 2e-5 - float((g * step).sum())) < 1e-5 * (1 + float((g * step).sum().abs()))


def test_one_against_the_rest():
    model, (x, y) = network().eval(), images()
    z = model(x).detach()
    expected = sum(-F.logsigmoid(z[i, k] if k == y[i] else -z[i, k]) for i in range(6) for k in range(3)) / 6
    torch.testing.assert_close(OneVsRest().loss(model, x, y, torch.Generator()), expected)
    figures = OneVsRest().figures(model, x, y)
    own = sum(bool(z[i, y[i]] > 0) for i in range(6)) / 6
    others = sum(bool(z[i, k] <= 0) for i in range(6) for k in range(3) if k != y[i]) / 12
    assert abs(figures["own class found"] - own) < 1e-4
    assert abs(figures["other classes rejected"] - others) < 1e-4
    for k in range(3):
        hits = sum(bool(z[i, k] > 0) for i in range(6) if y[i] == k) / 2
        rejects = sum(bool(z[i, k] <= 0) for i in range(6) if y[i] != k) / 4
        assert abs(figures["heads"][k] - (hits + rejects) / 2) < 1e-4


def test_robust_accuracy_is_what_pgd_leaves():
    model, (x, y) = network().eval().requires_grad_(False), images(30)
    eps, right = 0.05, 0
    for batch, (part, labels) in enumerate(zip(x.split(10), y.split(10), strict=True)):
        noise = torch.rand(part.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(batch))
        attacked = pgd(model, part, labels, eps * (2 * noise - 1), eps, eps / 8, 20)
        right += int((model(attacked).argmax(1) == labels).sum())
    assert abs(robust_accuracy(model, x, y, eps, batch=10) - right / 30) < 1e-6
