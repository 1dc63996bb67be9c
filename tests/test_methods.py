"""The comparison of the methods: columns, shards and files, against loops written out here."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import (
    AttackGame,
    create_attack,
    interaction_matrix,
    load_images,
    load_model,
    local,
    sampled,
    total_interaction,
    transfer_success,
    transfer_utility,
)
from irlib.attacks.pi import to_neighbours
from irlib.replicate import __main__ as command
from irlib.replicate import methods, presets, store
from irlib.replicate.presets import METHODS, PRESETS, Preset, shards
from tests.conftest import TinyResNet, make_images, make_network

TINY = Preset(("fmnist-mlp",), ("fmnist-mlp", "fmnist-alexnet"), 6, 7, 16 / 255, 0.8, 3, {}, by_order=2)


@pytest.fixture(scope="module")
def subject():
    return make_network(classes=4), make_images(batch=3), torch.tensor([1, 3, 0])


def slopes(network, x, y, delta):
    v = delta.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(network(x + v), y, reduction="sum"), v)[0]


def test_two_utilities_from_the_same_passes_are_those_of_two_games(subject):
    network, x, y = subject
    delta = 0.2 * make_images(seed=5) - 0.1
    game = AttackGame(network, x, delta, y, grid=3, utility=("margin", "ce"))
    coalitions = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    both, total = game(coalitions), total_interaction(game)
    assert both.shape == (3, 7, 2) and total.shape == (3, 2)
    for k, utility in enumerate(("margin", "ce")):
        one = AttackGame(network, x, delta, y, grid=3, utility=utility)
        torch.testing.assert_close(both[..., k], one(coalitions), rtol=0, atol=1e-12)
        torch.testing.assert_close(total[:, k], total_interaction(one), rtol=0, atol=1e-11)
    for one_only in (
        interaction_matrix,
        local.hessian,
        local.secant,
        lambda g: sampled.interaction_matrix(g, 300),
        lambda g: sampled.shapley_values(g, 60),
    ):
        with pytest.raises(ValueError, match="one of 'margin', 'ce': make a game of each"):
            one_only(game)
    with pytest.raises(ValueError, match="margn.*margin"):
        AttackGame(network, x, delta, y, grid=3, utility=("ce", "margn"))


def test_a_column_is_what_enumeration_and_the_targets_say(subject):
    network, x, y = subject
    targets = [make_network(seed, classes=4) for seed in (1, 2)]
    delta = 0.2 * make_images(seed=5) - 0.1
    found = methods.outcomes(network, targets, x, y, delta, 3)
    for utility in ("ce", "margin"):
        expected = interaction_matrix(AttackGame(network, x, delta, y, grid=3, utility=utility)).sum((1, 2)) / 72
        np.testing.assert_allclose(found[utility], expected, rtol=1e-3, atol=1e-12)
    before, after = (F.cross_entropy(network(v), y, reduction="none") for v in (x, x + delta))
    np.testing.assert_allclose(found["rise"], (after - before).detach(), rtol=1e-3)
    np.testing.assert_allclose(found["norm"], [d.norm() for d in delta], rtol=1e-3)
    np.testing.assert_allclose(found["utility"], sum(transfer_utility(x + delta, x, y, t) for t in targets) / 2, rtol=1e-3)
    rates = [np.mean([digit == "1" for digit in row]) for row in found["fooled"]]
    assert rates == pytest.approx(transfer_success(x + delta, y, targets).tolist())
    assert "fooled" not in methods.outcomes(network, (), x, y, delta, 3)


def test_raw_columns_are_plain_loops(subject):
    network, x, y = subject
    alpha, preset = torch.tensor([0.02, 0.05, 0.1], dtype=torch.float64), TINY
    per_image = alpha[:, None, None, None]
    made = lambda name: methods.at_beta(name, network, alpha, x, y, preset)

    plain = torch.zeros_like(x)
    for _ in range(10):
        plain = plain + per_image * slopes(network, x, y, plain)
    torch.testing.assert_close(made("pgd"), plain)

    momentum, gradients = torch.zeros_like(x), []
    for _ in range(10):
        gradients.append(slopes(network, x, y, momentum))
        momentum = momentum + per_image * sum(gradients) / len(gradients)
    torch.testing.assert_close(made("mi"), momentum)

    half = torch.zeros_like(x)
    for _ in range(5):
        half = half + per_image * slopes(network, x, y, half)
    longer = torch.stack([h * p.norm() / h.norm() for h, p in zip(half, plain, strict=True)])
    torch.testing.assert_close(made("il"), longer)

    room, shared = plain.abs().amax((1, 2, 3), keepdim=True) / 2, torch.zeros_like(x)
    for _ in range(10):
        move = per_image * slopes(network, x, y, shared)
        beyond = (shared + move) - (shared + move).clamp(-room, room)
        part = (beyond / torch.where(move == 0, 1, move)).clamp(0, 1)
        shared = shared + (1 - part) * move + to_neighbours(part * move, 3)
    torch.testing.assert_close(made("pi"), shared)
    assert not torch.allclose(shared, plain)


def test_step_sizes_are_half_over_the_largest_eigenvalue():
    x, y = methods.study_images(TINY)
    model = load_model("fmnist-mlp").double()
    alpha = methods.step_sizes(TINY, "fmnist-mlp")
    assert alpha.dtype == x.dtype
    for i in range(2):
        H = torch.autograd.functional.hessian(lambda v: F.cross_entropy(model(v), y[i : i + 1]), x[i : i + 1].double()).view(784, 784)  # noqa: B023
        assert 10 * alpha[i].item() * torch.linalg.eigvalsh(H)[-1].item() == pytest.approx(methods.STRENGTH, rel=1e-5)


def test_a_path_is_stopped_at_tau_and_walked_no_farther_than_needed(subject):
    network, x, y = subject
    attack = create_attack("pgd", network, norm="l2", eps=9.0, alpha=0.1, steps=40)
    delta, step = methods.at_tau(attack, x, y, 0.45)
    expected = torch.zeros_like(x)
    for k in range(5):
        g = slopes(network, x, y, expected)
        moved = (x + expected + 0.1 * g / g.flatten(1).norm(dim=1)[:, None, None, None]).clamp(0, 1) - x
        arrived = (expected.flatten(1).norm(dim=1) >= 0.45)[:, None, None, None]
        expected = torch.where(arrived, expected, moved)
        assert k < 4 or (step[~arrived.flatten()] >= 5).all()
    there = step == 5
    assert there.any()
    shortened = torch.stack([d * 0.45 / d.norm() for d in expected])
    torch.testing.assert_close(delta[there], shortened[there])
    torch.testing.assert_close(delta.flatten(1).norm(dim=1), torch.full((3,), 0.45, dtype=torch.float64))
    asked = []
    watched = replace(attack, direction=lambda g, state: (asked.append(1), (g, state))[1])
    methods.at_tau(watched, x, y, 0.45)
    assert len(asked) == step.max()
    far, never = methods.at_tau(replace(attack, steps=2), x, y, 0.45)
    assert never.tolist() == [-1] * 3 and (far.flatten(1).norm(dim=1) < 0.45).all()


def test_guides_are_the_next_images_of_another_class():
    x, y = make_images(batch=5), torch.tensor([2, 2, 0, 0, 2])
    assert [int((x == guide).all((1, 2, 3)).nonzero()) for guide in methods.guides(x, y)] == [2, 2, 4, 4, 2]


def test_orders_are_second_differences_of_the_mean_over_sizes(subject):
    network, x, y = subject
    delta = 0.2 * make_images(seed=5) - 0.1
    game = AttackGame(network, x, delta, y, grid=3)
    mean = []
    for size in range(10):
        members = torch.zeros(0, 9, dtype=torch.bool)
        for chosen in itertools.combinations(range(9), size):
            row = torch.zeros(1, 9, dtype=torch.bool)
            row[0, list(chosen)] = True
            members = torch.cat([members, row])
        mean.append(game(members).mean(1))
    mean = torch.stack(mean, 1)
    # over all pairs and contexts of s units, S∪ab runs through all coalitions of s + 2 units equally often, S∪a of s + 1, S of s
    expected = mean[:, 2:] - 2 * mean[:, 1:-1] + mean[:, :-2]
    np.testing.assert_allclose(methods.by_order(network, x, y, delta), expected, rtol=2e-3, atol=1e-7)


def test_the_attacked_network_is_the_one_in_which_altered_is_measured():
    network, x, y = TinyResNet().double().eval(), make_images(batch=2), torch.tensor([1, 3])
    delta = 0.2 * make_images(seed=5, batch=2) - 0.1
    plain = (total_interaction(AttackGame(network, x, delta, y, grid=3)) / 72).tolist()
    assert methods.altered(create_attack("pgd", network), x, y, delta, 3, 2) == pytest.approx(plain, rel=1e-3)
    ghosts = methods.altered(create_attack("ghost", network, skip_range=0.5), x, y, delta, 3, 1)
    assert ghosts != pytest.approx(plain, rel=1e-3)
    assert ghosts == methods.altered(create_attack("ghost", network, skip_range=0.5), x, y, delta, 3, 1)
    assert ghosts[1] == methods.altered(create_attack("ghost", network, skip_range=0.5), x[1:], y[1:], delta[1:], 3, 1)[0]


def test_every_method_is_on_its_sources():
    listed = list(shards(PRESETS["quick"]))
    assert len(listed) == len(set(listed))
    assert {method for _, method in listed} == set(METHODS)
    for source, method in listed:
        assert (source, "pgd") in listed
        assert load_model(source + METHODS[method].network) is not None
    assert ("fmnist-resnet26", "sgm") in listed and ("fmnist-vgg", "sgm") not in listed
    for method in METHODS:
        expected = 1 if method in ("adv2", "adv4", "adv8", "ia-trained") else 2 if method == "fd" else 3
        assert (
            sum(name == method and source in presets.PRESETS["quick"].where.get(method, presets.PRESETS["quick"].sources) for source, name in listed)
            == expected
        )


@pytest.fixture
def one_thread():
    """The command's own setting, under which the same run gives the same bytes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_run_goes_on_where_it_stopped_and_stores_whole_files(tmp_path, monkeypatch, capsys, one_thread):
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    monkeypatch.setitem(PRESETS, "tiny", TINY)
    few = {name: METHODS[name] for name in ("pgd", "pi", "fi")}
    monkeypatch.setattr(presets, "METHODS", few)
    whole = methods.shard

    def dies(preset, source, name, *rest):
        if name == "pi":
            raise KeyboardInterrupt
        return whole(preset, source, name, *rest)

    monkeypatch.setattr(methods, "shard", dies)
    with pytest.raises(KeyboardInterrupt):
        methods.run("tiny")
    assert sorted(p.name for p in (tmp_path / "tiny").iterdir()) == ["fmnist-mlp-pgd.json", "log.jsonl"]
    first = (tmp_path / "tiny" / "fmnist-mlp-pgd.json").read_bytes()
    monkeypatch.setattr(methods, "shard", whole)
    command.main(["methods", "--preset", "tiny"])
    assert sorted(p.stem for p in (tmp_path / "tiny").glob("*.json")) == ["fmnist-mlp-fi", "fmnist-mlp-pgd", "fmnist-mlp-pi"]
    assert (tmp_path / "tiny" / "fmnist-mlp-pgd.json").read_bytes() == first
    methods.run("tiny", only="fmnist-mlp-pgd", again=True)
    assert (tmp_path / "tiny" / "fmnist-mlp-pgd.json").read_bytes() == first
    log = [json.loads(line)["shard"] for line in (tmp_path / "tiny" / "log.jsonl").read_text().splitlines()]
    assert log == ["fmnist-mlp-pgd", "fmnist-mlp-pi", "fmnist-mlp-fi", "fmnist-mlp-pgd"]
    assert "forward passes and" in capsys.readouterr().out

    pgd, pi, fi = (store.read(tmp_path / "tiny" / f"fmnist-mlp-{name}.json") for name in ("pgd", "pi", "fi"))
    assert "beta" not in fi and {"beta", "tau", "linf"} <= pgd.keys()
    assert pgd["targets"] == ["fmnist-alexnet"] and len(pgd["tau"]["fooled"]) == 1 and len(pgd["tau"]["fooled"][0]) == 6
    for shard, length in ((pgd, np.full(6, 0.8)), (pi, np.array(pgd["linf"]["norm"]))):
        arrived = np.array(shard["arrived"]) == 1
        assert arrived.any()
        np.testing.assert_allclose(np.array(shard["tau"]["norm"])[arrived], length[arrived], rtol=1e-3)
    with pytest.raises(SystemExit):
        command.main(["methods", "--preset", "tiny", "--only", "nonsense"])
    assert "no shard of tiny starts with 'nonsense'" in capsys.readouterr().err


def test_a_dry_run_computes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, "FOLDER", tmp_path)
    command.main(["methods", "--dry-run"])
    assert "hours" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_preset_without_images_of_its_own_or_with_too_few_says_so():
    with pytest.raises(ValueError, match="give --images"):
        methods.study_images(PRESETS["paper"])
    with pytest.raises(ValueError, match="have .* of the images right, the preset needs 1001"):
        methods.study_images(replace(TINY, images=1001))


def test_stored_outcomes_are_those_of_the_attack_written_out():
    stored = store.read(methods.FOLDER / "quick" / "fmnist-vgg-pgd.json", "methods")
    x, y = load_images("fashion-mnist")
    right = torch.stack([load_model(name)(x).argmax(1) == y for name in (*PRESETS["quick"].targets, *PRESETS["quick"].right)]).all(0)
    x, y = x[right][:10], y[right][:10]
    assert stored["labels"][:10] == y.tolist() and len(stored["labels"]) == 300
    model, adversarial = load_model("fmnist-vgg"), x
    for _ in range(10):
        v = adversarial.clone().requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(model(v), y, reduction="sum"), v)[0]
        adversarial = (adversarial + 2 / 255 * g.sign()).clamp(x - 16 / 255, x + 16 / 255).clamp(0, 1)
    np.testing.assert_allclose(stored["linf"]["norm"][:10], (adversarial - x).flatten(1).norm(dim=1), rtol=0.02)
    totals = total_interaction(AttackGame(model, x, adversarial - x, y, grid=7)) / (49 * 48)
    np.testing.assert_allclose(stored["linf"]["ce"][:10], totals, rtol=0.15)
    fooled = [load_model(name)(adversarial).argmax(1) != y for name in stored["targets"]]
    assert (
        np.mean([[int(d) == int(f) for d, f in zip(row[:10], each, strict=True)] for row, each in zip(stored["linf"]["fooled"], fooled, strict=True)])
        > 0.95
    )
