"""Success, transfer utility, leave-one-out and intervals against loops, a binomial's own quantiles, and simulated data."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from irlib.transfer import all_right, fooled, interval, leave_one_out, paired_difference, transfer_success, transfer_utility
from tests.conftest import assert_untouched, make_images, make_network, snapshot


def make_target(seed):
    """A network that gives every label to some images."""
    target = make_network(seed)
    with torch.no_grad():
        target[-1].bias -= target(make_images(batch=40)).mean(0)
    return target


@pytest.fixture
def targets():
    return [make_target(seed) for seed in (1, 2, 3)]


@pytest.fixture
def images():
    """Clean and perturbed images, and labels of which every target has some right."""
    x = make_images(batch=40)
    x_adv = (x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)).clamp(0, 1)
    y = torch.stack([make_target(seed)(x).argmax(1) for seed in (1, 2, 3)])[torch.arange(40) % 3, torch.arange(40)]
    return x, x_adv, y


def scores(model, image):
    with torch.no_grad():
        return model(image[None])[0].tolist()


def label(model, image):
    z = scores(model, image)
    return max(range(len(z)), key=lambda k: z[k])


def rival(model, image, own):
    z = scores(model, image)
    return max((k for k in range(len(z)) if k != own), key=lambda k: z[k])


def test_fooled_is_another_label_than_y(targets, images):
    _, x_adv, y = images
    found = fooled(x_adv, y, targets)
    assert found.dtype == torch.bool
    assert found.tolist() == [[label(target, image) != own for image, own in zip(x_adv, y.tolist(), strict=True)] for target in targets]
    assert all(0 < row.sum() < 40 for row in found)
    assert fooled(x_adv, y, targets[1]).tolist() == found[1:2].tolist()
    assert fooled(x_adv, y, tuple(targets)).equal(found)


def test_success_counts_all_images_or_those_the_target_had_right(targets, images):
    x, x_adv, y = images
    plain, conditional = [], []
    for target in targets:
        missed = right = both = 0
        for clean, adversarial, own in zip(x, x_adv, y.tolist(), strict=True):
            missed += label(target, adversarial) != own
            right += label(target, clean) == own
            both += label(target, clean) == own and label(target, adversarial) != own
        plain.append(missed / 40)
        conditional.append(both / right)
    for found, expected in [(transfer_success(x_adv, y, targets), plain), (transfer_success(x_adv, y, targets, x), conditional)]:
        assert found.dtype == torch.float64 and found.tolist() == pytest.approx(expected, abs=1e-15)
    assert all(abs(a - b) > 0.01 for a, b in zip(plain, conditional, strict=True))
    assert transfer_success(x_adv, y, targets[2]).tolist() == pytest.approx(plain[2:], abs=1e-15)
    assert transfer_success(x_adv, y, targets[2], x=x).tolist() == pytest.approx(conditional[2:], abs=1e-15)


def test_a_target_with_none_right_has_no_rate_among_them(targets, images):
    x, x_adv, _ = images
    never = (targets[0](x).argmax(1) + 1) % 5
    found = transfer_success(x_adv, never, targets, x)
    assert math.isnan(found[0]) and not found[1:].isnan().any()
    assert not transfer_success(x_adv, never, targets).isnan().any()


def test_utility_is_the_gain_in_margin_with_the_rival_chosen_at_each_point(targets, images):
    x, x_adv, y = images
    for target in targets:
        expected, changed, held = [], 0, []
        for clean, adversarial, own in zip(x, x_adv, y.tolist(), strict=True):
            before, after = scores(target, clean), scores(target, adversarial)
            first, last = rival(target, clean, own), rival(target, adversarial, own)
            expected.append((after[last] - after[own]) - (before[first] - before[own]))
            held.append((after[last] - after[own]) - (before[last] - before[own]))
            changed += first != last
        found = transfer_utility(x_adv, x, y, target)
        assert found.dtype == torch.float64 and found.shape == (40,)
        assert found.tolist() == pytest.approx(expected, abs=1e-12)
        assert 0 < changed < 40 and found.tolist() != pytest.approx(held, abs=1e-3)


def test_utility_of_three_logits_by_hand():
    class Pixels(nn.Module):
        def forward(self, x):
            return x.flatten(1)

    x, x_adv = torch.tensor([[0.5, 0.25, 0.0]]).view(1, 1, 1, 3), torch.tensor([[0.25, 0.0, 0.75]]).view(1, 1, 1, 3)
    # margin −0.25 towards class 1 before, 0.5 towards class 2 after
    assert transfer_utility(x_adv, x, torch.tensor([0]), Pixels().eval()).tolist() == [0.75]
    assert transfer_utility(x, x, torch.tensor([0]), Pixels().eval()).tolist() == [0.0]


def test_float32_targets_give_float64_rates_and_utilities(targets, images):
    x, x_adv, y = images
    single = [make_target(seed).float() for seed in (1, 2, 3)]
    assert transfer_success(x_adv.float(), y, single).dtype == torch.float64
    found = transfer_utility(x_adv.float(), x.float(), y, single[0])
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, transfer_utility(x_adv, x, y, targets[0]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 39, 40, 1000])
def test_batches_change_the_passes_but_not_the_result(targets, images, batch):
    x, x_adv, y = images
    whole, moved = fooled(x_adv, y, targets), transfer_utility(x_adv, x, y, targets[0])
    sizes = []
    targets[0].register_forward_hook(lambda m, i, o: sizes.append(len(o)))
    assert fooled(x_adv, y, targets, batch=batch).equal(whole)
    expected = [min(batch, 40 - start) for start in range(0, 40, batch)]
    assert sizes == expected
    torch.testing.assert_close(transfer_utility(x_adv, x, y, targets[0], batch=batch), moved, rtol=0, atol=1e-12)
    assert sizes == 3 * expected


def test_models_stay_as_they_were_and_nothing_carries_a_graph(targets, images):
    x, x_adv, y = images
    x_adv.requires_grad_()
    before, graphs = [snapshot(target) for target in targets], []
    handles = [target.register_forward_hook(lambda m, i, o: graphs.append(o.requires_grad)) for target in targets]
    for found in (transfer_success(x_adv, y, targets), transfer_success(x_adv, y, targets, x), transfer_utility(x_adv, x, y, targets[0])):
        assert not found.requires_grad
    for handle in handles:
        handle.remove()
    assert len(graphs) == 3 + 6 + 2 and not any(graphs)
    for target, state in zip(targets, before, strict=True):
        assert_untouched(target, state)


def slow_leave_one_out(rows):
    hits = 0
    for i in range(len(rows[0])):
        best, most = 0, -1
        for step, row in enumerate(rows):
            others = sum(hit for j, hit in enumerate(row) if j != i)
            if others > most:
                best, most = step, others
        hits += rows[best][i]
    return hits / len(rows[0])


@settings(deadline=None)
@given(st.integers(2, 7).flatmap(lambda images: st.lists(st.lists(st.booleans(), min_size=images, max_size=images), min_size=1, max_size=7)))
def test_leave_one_out_judges_each_image_at_the_best_step_of_the_others(rows):
    assert leave_one_out(torch.tensor(rows)) == pytest.approx(slow_leave_one_out(rows), abs=1e-15)


def test_leave_one_out_over_large_tables():
    for seed in range(20):
        table = torch.rand(30, 50, generator=torch.Generator().manual_seed(seed)) < 0.5
        assert leave_one_out(table) == pytest.approx(slow_leave_one_out(table.tolist()), abs=1e-15)


def test_leave_one_out_by_hand():
    # either step fools two of four, and whoever is left out tips the others to the step that fails for it
    assert leave_one_out(torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]).bool()) == 0
    # image 0 sees a tie, of which the earlier step counts
    assert leave_one_out(torch.tensor([[1, 1, 0], [0, 1, 0]]).bool()) == pytest.approx(2 / 3, abs=1e-15)
    assert leave_one_out(torch.tensor([[0, 1, 0], [1, 1, 0]]).bool()) == pytest.approx(1 / 3, abs=1e-15)
    # a step far ahead of the others is best for everyone
    assert leave_one_out(torch.tensor([[0, 0, 0, 0, 1], [1, 1, 1, 1, 0], [0, 1, 0, 0, 1]]).bool()) == pytest.approx(4 / 5, abs=1e-15)


def test_luck_among_many_steps_is_not_rewarded():
    generator, rate, repetitions = torch.Generator().manual_seed(0), 0.3, 1500
    tables = torch.rand(repetitions, 60, 40, generator=generator) < rate
    judged = torch.tensor([leave_one_out(table) for table in tables], dtype=torch.float64)
    error = judged.std() / repetitions**0.5
    assert abs(judged.mean() - rate) < 4 * error
    assert error < 0.005
    assert tables.double().mean(2).amax(1).mean() > rate + 0.1


def binomial_quantile(n, p, level):
    """The least k whose cumulative probability reaches the level."""
    total = 0.0
    for k in range(n + 1):
        total += math.comb(n, k) * p**k * (1 - p) ** (n - k)
        if total >= level:
            return k
    return n


@pytest.mark.parametrize(("n", "hits", "level"), [(50, 20, 0.95), (300, 6, 0.95), (300, 6, 0.8), (80, 77, 0.5)])
def test_resampling_zeros_and_ones_is_a_binomial(n, hits, level):
    values = torch.arange(n) < hits
    mean, low, high = interval(values, level, resamples=20_000)
    assert mean == pytest.approx(hits / n, abs=1e-15)
    for found, quantile in [(low, (1 - level) / 2), (high, (1 + level) / 2)]:
        assert binomial_quantile(n, hits / n, quantile - 0.005) <= round(found * n) <= binomial_quantile(n, hits / n, min(1, quantile + 0.005))


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_covers_the_rate_as_often_as_it_says(level):
    generator, rate, repetitions = torch.Generator().manual_seed(0), 0.4, 300
    covered = 0
    for repetition in range(repetitions):
        found = interval(torch.rand(120, generator=generator) < rate, level, resamples=300, seed=repetition)
        covered += found.low <= rate <= found.high
    assert abs(covered / repetitions - level) < 4 * math.sqrt(level * (1 - level) / repetitions)


def test_the_seed_decides_the_interval():
    values = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first = interval(values, seed=3)
    torch.manual_seed(0)
    assert interval(values, seed=3) == first != interval(values, seed=4)
    assert first.low < first.mean < first.high
    pair = lambda **seed: paired_difference(values, values.flip(0), **seed)
    assert pair(seed=3) == pair(seed=3) != pair(seed=4)
    assert pair() == pair(seed=0) == paired_difference(values, values.flip(0), 0.95, 2000, 0)
    assert interval(values) == interval(values, 0.95, 2000, 0)


def test_zeros_and_ones_of_any_type_and_lists_are_accepted():
    hits = [True, False, True, True, False, True]
    expected = interval(torch.tensor(hits).double(), seed=1)
    assert expected.mean == pytest.approx(4 / 6, abs=1e-15)
    for values in (torch.tensor(hits), torch.tensor(hits).long(), torch.tensor(hits).float(), hits, np.array(hits)):
        assert interval(values, seed=1) == expected
    assert interval([2.5, 2.5, 2.5]) == (2.5, 2.5, 2.5)


def test_the_difference_of_a_pair_is_that_of_its_images():
    a, b = torch.tensor([True, True, False, True, True]), torch.tensor([False, True, False, False, True])
    expected = interval([1.0, 0.0, 0.0, 1.0, 0.0], level=0.7, resamples=500, seed=2)
    assert paired_difference(a, b, level=0.7, resamples=500, seed=2) == expected
    assert expected.mean == pytest.approx(0.4, abs=1e-15)
    reverse = paired_difference(b, a)
    assert reverse.mean == -expected.mean and reverse.high <= 0
    assert paired_difference(a, a) == (0, 0, 0)


def test_pairing_narrows_the_interval():
    generator = torch.Generator().manual_seed(0)
    hard = torch.rand(200, generator=generator) < 0.5
    a, b = ((hard + (torch.rand(200, generator=generator) < flips).long()) % 2 == 1 for flips in (0.05, 0.1))
    paired = paired_difference(a, b)
    strangers = paired_difference(a, b[torch.randperm(200, generator=generator)])
    assert paired.mean == pytest.approx((sum(a.tolist()) - sum(b.tolist())) / 200, abs=1e-15)
    assert strangers.mean == pytest.approx(paired.mean, abs=1e-15)
    assert paired.high - paired.low < 0.7 * (strangers.high - strangers.low)


def test_bad_images_labels_and_targets_are_refused(targets, images):
    x, x_adv, y = images
    train = make_network()
    train[1].train()
    nan = x.clone()
    nan[3, 0, 0, 0] = torch.nan
    ok = dict(x_adv=x_adv, y=y, targets=targets)
    for change, error, words in [
        (dict(x_adv=x_adv + 1), ValueError, "normalisation belongs inside the model"),
        (dict(x_adv=nan), ValueError, "NaN"),
        (dict(x_adv=x_adv[0]), ValueError, "batch, channels, height, width"),
        (dict(x_adv=x_adv.float()), TypeError, "float32.*float64"),
        (dict(x_adv=(x_adv * 255).byte()), TypeError, "uint8"),
        (dict(y=y.double()), TypeError, "int64"),
        (dict(y=y[:7]), ValueError, r"shape \(40,\).*got \(7,\)"),
        (dict(y=y + 5), ValueError, "0 … 4 for a model of 5 logits"),
        (dict(y=-1 - y), ValueError, "labels must lie in"),
        (dict(targets=[]), ValueError, "at least one"),
        (dict(targets=[targets[0], train]), ValueError, "module '1'.*model.eval()"),
        (dict(targets=[targets[0], lambda v: v]), TypeError, "nn.Module"),
        (dict(targets=nn.Sequential(nn.Conv2d(1, 3, 3)).double().eval()), ValueError, "logits"),
    ]:
        for function in (fooled, transfer_success):
            with pytest.raises(error, match=words):
                function(**(ok | change))
    for clean in (x[:7], x.float(), x.numpy()):
        with pytest.raises(ValueError, match="x must have x_adv's shape"):
            transfer_success(x_adv, y, targets, clean)
        with pytest.raises(ValueError, match="x must have x_adv's shape"):
            transfer_utility(x_adv, clean, y, targets[0])
    with pytest.raises(ValueError, match="NaN"):
        transfer_success(x_adv, y, targets, nan)
    with pytest.raises(ValueError, match="eval"):
        transfer_utility(x_adv, x, y, train)
    with pytest.raises(ValueError, match="5 logits"):
        transfer_utility(x_adv, x, y + 5, targets[0])


def test_logits_that_are_not_finite_are_refused_in_every_batch():
    class Logarithm(nn.Module):
        def forward(self, x):
            return x.flatten(1).log()

    x, y = torch.tensor([[0.5, 0.25], [0.0, 0.25]]).view(2, 1, 1, 2), torch.tensor([0, 0])
    for batch in (2, 1):
        with pytest.raises(ValueError, match="infinite logits"):
            fooled(x, y, Logarithm().eval(), batch=batch)


def test_bad_tables_and_values_are_refused():
    table = torch.ones(3, 4, dtype=torch.bool)
    for bad in (table.float(), table.long(), table[0], table[None], table.tolist()):
        with pytest.raises(TypeError, match=r"bool tensor \(steps, images\)"):
            leave_one_out(bad)
    for bad in (table[:, :1], table[:0]):
        with pytest.raises(ValueError, match="one step and two images"):
            leave_one_out(bad)
    for bad, words in [
        ([1.0], r"two finite values.*\(1,\)"),
        ([], "two finite values"),
        ([[1.0, 0.0], [1.0, 1.0]], r"\(2, 2\)"),
        ([1.0, math.nan, 0.0], "NaN"),
        ([1.0, math.inf], "finite"),
    ]:
        with pytest.raises(ValueError, match=words):
            interval(bad)
        with pytest.raises(ValueError, match=words):
            paired_difference(bad, torch.zeros_like(torch.tensor(bad)))
    for level in (0, 1, -0.5, 95, math.nan):
        with pytest.raises(ValueError, match="level"):
            interval([0.0, 1.0], level)
    for resamples in (0, 2.5):
        with pytest.raises(ValueError, match="resamples must be a whole number"):
            interval([0.0, 1.0], resamples=resamples)
    with pytest.raises(ValueError, match=r"same images.*\(3,\) and \(2,\)"):
        paired_difference([0.0, 1.0, 1.0], [0.0, 1.0])


def test_what_everyone_has_right_is_kept_in_order(targets, images):
    x, _, y = images
    kept = [i for i in range(len(x)) if all(model(x[i : i + 1]).argmax() == y[i] for model in targets[:2])]
    found_x, found_y = all_right(x, y, targets[:2])
    assert torch.equal(found_x, x[kept])
    assert torch.equal(found_y, y[kept])
    assert 0 < len(kept) < len(x)
