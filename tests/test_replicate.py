"""The runs behind the paper's figures: the relaxed attack, its stop, the files, and what is computed from them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import AttackGame, load_images, load_model, mean_interaction, transfer_utility
from irlib.replicate import __main__ as command
from irlib.replicate import chapters, fig2, store
from irlib.replicate.correlation import Settings, pearson, regression, settings
from irlib.widgets import orders
from tests.conftest import make_images, make_network


def made_up_shards(images=20, count=10):
    """Shards of the stored layout: stronger settings arrive less often, and fall short of τ by more."""
    rng = np.random.default_rng(0)
    shards = {}
    for source in fig2.SOURCES:
        targets = [name for name in fig2.NETWORKS if name != source]
        for part in ("p2", "p5"):
            late = 0.2 + 0.12 * np.arange(count)[:, None, None] * np.array([0.4, 0.7, 1])[:, None] * rng.uniform(0.8, 1.2, images)
            step = np.where(late < 1, np.ceil(40 * late), -1).astype(int)
            interaction = rng.gamma(4, 0.002, (count, 3, images)) / np.maximum(late, 1) ** 2
            utility = rng.normal(5, 1, (len(targets), count, 3, images)) / np.maximum(late, 1)
            shards[source, part] = {
                "source": source,
                "taus": [0.4, 0.6, 0.8],
                "c": [0.1 * 2**k for k in range(count)],
                "targets": targets,
                "step": step.tolist(),
                "interaction": interaction.tolist(),
                "utility": utility.tolist(),
            }
    return shards


@pytest.fixture(scope="module")
def subject():
    return make_network(classes=4), make_images(batch=3), torch.tensor([1, 3, 0])


def climbed(network, x, y, c, p, length, steps):
    """The relaxed attack by hand, one image at a time."""
    deltas = []
    for image, label in zip(x, y, strict=True):
        delta, path = torch.zeros_like(image), [torch.zeros_like(image)]
        for _ in range(steps):
            v = delta.clone().requires_grad_()
            value = F.cross_entropy(network((image + v)[None]), label[None]) - c * sum(abs(e) ** p for e in v.flatten())
            g = torch.autograd.grad(value, v)[0]
            delta = (image + delta + length * g / g.pow(2).sum().sqrt()).clamp(0, 1) - image
            path.append(delta)
        deltas.append(torch.stack(path))
    return torch.stack(deltas, 1)


@pytest.mark.parametrize(("c", "p"), [(0.0, 2), (0.7, 2), (40.0, 5)])
def test_the_relaxed_attack_is_a_plain_loop(subject, c, p):
    network, x, y = subject
    attack = replace(fig2.free("pgd", network, alpha=0.07, steps=6), objective=fig2.Penalised(c, p))
    torch.testing.assert_close(fig2.trajectory(attack, x, y), climbed(network, x, y, c, p, 0.07, 6), rtol=1e-6, atol=1e-9)


def test_the_stop_is_the_first_step_at_tau_shortened_to_it():
    lengths = torch.tensor([[0, 0, 0], [0.3, 0.5, 0.1], [0.9, 0.4, 0.2], [0.7, 0.8, 0.3]], dtype=torch.float64)
    direction = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    deltas = (lengths[..., None] * direction)[:, :, None, None]
    delta, step = fig2.stopped(deltas, 0.5)
    assert step.tolist() == [2, 1, -1]
    torch.testing.assert_close(delta[:, 0, 0], torch.tensor([0.5, 0.5, 0.3], dtype=torch.float64)[:, None] * direction)


def test_a_pull_of_one_balances_loss_and_penalty(subject):
    """Half of the images are pulled harder by the penalty, half less; c of other pulls is proportional."""
    network, x, y = subject
    half, one = fig2.weights(network, x, y, 2, (0.5, 1.0))
    assert half == pytest.approx(one / 2, rel=1e-2)
    delta, _ = fig2.stopped(climbed(network, x, y, 0.0, 2, fig2.LENGTH, fig2.STEPS), fig2.REFERENCE)
    ratios = []
    for image, label, d in zip(x, y, delta, strict=True):
        v = d.clone().requires_grad_()
        g = torch.autograd.grad(F.cross_entropy(network((image + v)[None]), label[None]), v)[0]
        ratios.append(float(g.norm() / (2 * d).norm()))
    assert one == pytest.approx(sorted(ratios)[1], rel=1e-2)


def test_the_outcomes_are_those_of_single_images(subject, monkeypatch):
    network, x, y = subject
    monkeypatch.setattr(fig2, "GRID", 3)
    targets = [make_network(classes=4, seed=5), network]
    attack = fig2.free("pgd", network, steps=8)
    found = fig2.measured(network, targets, x, y, [attack], [0.2, 30.0, 40.0])
    path = climbed(network, x, y, 0.0, 2, fig2.LENGTH, 8)
    for t, tau in enumerate((0.2, 30.0, 40.0)):
        for i in range(len(x)):
            lengths = [float(d.norm()) for d in path[:, i]]
            reached = [k for k, length in enumerate(lengths) if length >= tau]
            delta = path[reached[0], i] * tau / lengths[reached[0]] if reached else path[-1, i]
            image, label = x[i : i + 1], y[i : i + 1]
            assert found["step"][0][t][i] == (reached[0] if reached else -1)
            assert found["norm"][0][t][i] == pytest.approx(float(delta.norm()), rel=1e-3)
            game = AttackGame(network, image, delta[None], label, grid=fig2.GRID)
            assert found["interaction"][0][t][i] == pytest.approx(float(mean_interaction(game)), rel=1e-3, abs=1e-12)
            rise = F.cross_entropy(network(image + delta), label) - F.cross_entropy(network(image), label)
            assert found["rise"][0][t][i] == pytest.approx(rise.item(), rel=1e-3)
            for k, target in enumerate(targets):
                x_adv = (image + delta).clamp(0, 1)
                assert found["utility"][k][0][t][i] == pytest.approx(float(transfer_utility(x_adv, image, label, target)), rel=6e-3, abs=1e-6)
                assert found["fooled"][k][0][t][i] == str(int(target(x_adv).argmax() != label))


def test_a_file_is_whole_or_absent_and_the_same_twice(tmp_path):
    path = tmp_path / "fig2" / "a.json"
    result = {"name": "τ", "values": store.rounded(torch.tensor([[0.123456, 2.0], [-1e-9, 3.14159]]), 3)}
    store.write(path, result)
    assert result["values"] == [[0.123, 2], [-1e-9, 3.14]]
    assert store.read(path) == result == json.loads(path.read_text())
    before = path.read_bytes()
    store.write(path, result)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]
    with pytest.raises(TypeError):
        store.write(path, {"no": object()})
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="NaN or infinity"):
        store.rounded([1, math.nan], 3)
    with pytest.raises(FileNotFoundError, match="python -m irlib.replicate fig2"):
        store.read(tmp_path / "fig2" / "b.json")


def test_the_command_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(fig2, "FOLDER", tmp_path)
    monkeypatch.setattr(fig2, "shard", lambda source, part: made.append(f"{source}-{part}") or {"source": source})
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    command.main(["fig2", "--only", "fmnist-resnet26-p5"])
    assert made == ["fmnist-resnet26-p5"]
    command.main(["fig2"])
    assert len(made) == len(set(made)) == len(list(fig2.shards())) == len(list(tmp_path.glob("*.json")))
    command.main(["fig2", "--again", "--only", "fmnist-resnet26-p5"])
    assert made[-1] == "fmnist-resnet26-p5"
    assert "forward passes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["fig2", "--only", "fmnist-vgg-p2"])
    assert "no shard 'fmnist-vgg-p2'" in capsys.readouterr().err


def test_settings_under_which_few_arrive_are_left_out_and_images_are_shared():
    arrived = np.array([[1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 0, 0]], dtype=bool)
    interaction, utility = np.arange(16.0).reshape(4, 4), np.arange(16.0).reshape(4, 4)[::-1] ** 2
    found = Settings(interaction, utility, arrived)
    assert found.kept.tolist() == [True, True, True, False]  # half of the images is enough
    assert found.used.tolist() == [True, False, False, True]
    np.testing.assert_allclose(found.points(), [[(a[0] + a[3]) / 2, (b[0] + b[3]) / 2] for a, b in zip(interaction, utility, strict=True)])
    for everything, rows in ((False, 3), (True, 4)):
        r = found.correlation(everything)
        assert r.mean == pytest.approx(np.corrcoef(found.points()[:rows].T)[0, 1])
        assert r.low <= r.mean <= r.high


def test_the_interval_is_that_of_redrawn_images():
    """Against a loop that picks images by number."""
    rng = np.random.default_rng(1)
    interaction, utility = rng.normal(size=(2, 6, 25))
    utility = utility - 0.5 * interaction
    found = Settings(interaction, utility, np.ones((6, 25), dtype=bool)).correlation(resamples=4000)
    drawn = []
    for _ in range(4000):
        chosen = rng.integers(25, size=25)
        drawn.append(np.corrcoef(interaction[:, chosen].mean(1), utility[:, chosen].mean(1))[0, 1])
    np.testing.assert_allclose(found[1:], np.quantile(drawn, [0.025, 0.975]), atol=0.03)


def test_two_settings_have_no_correlation():
    arrived = np.array([[1, 1], [1, 1], [0, 0]], dtype=bool)
    assert np.isnan(Settings(np.eye(3, 2), np.eye(3, 2), arrived).correlation()).all()


def test_the_line_and_its_band_are_the_textbooks():
    """By the covariance matrix of the least squares estimate."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=9)
    y, at = 2 - 3 * x + rng.normal(size=9), np.linspace(-1, 1, 5)
    design, points = np.column_stack([np.ones(9), x]), np.column_stack([np.ones(5), at])
    estimate, (squares,) = np.linalg.lstsq(design, y, rcond=None)[:2]
    covariance = squares / 7 * np.linalg.inv(design.T @ design)
    line, half = regression(x, y, at)
    np.testing.assert_allclose(line, points @ estimate)
    np.testing.assert_allclose(half, 2.364624 * np.sqrt(np.einsum("ki,ij,kj->k", points, covariance, points)), rtol=1e-6)  # t, 7 degrees of freedom
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])


def test_a_shard_is_read_at_its_tau_and_targets():
    shard = made_up_shards()["fmnist-resnet14", "p5"]
    found = settings(shard, 0.6, ["fmnist-vgg", "fmnist-dpn"])
    rows = [shard["targets"].index(name) for name in ("fmnist-vgg", "fmnist-dpn")]
    for s in range(10):
        np.testing.assert_array_equal(found.interaction[s], shard["interaction"][s][1])
        np.testing.assert_allclose(found.utility[s], np.mean([shard["utility"][k][s][1] for k in rows], 0))
        np.testing.assert_array_equal(found.arrived[s], np.array(shard["step"][s][1]) >= 0)
    with pytest.raises(ValueError, match=r"has no τ 0.5; it has 0.4, 0.6, 0.8"):
        settings(shard, 0.5, ["fmnist-vgg"])
    with pytest.raises(ValueError, match="has no target fmnist-resnet14; it has fmnist-resnet26"):
        settings(shard, 0.6, ["fmnist-resnet14"])


def test_a_chapters_study_is_the_one_stored():
    """The settings written now, and one network measured anew, against the file the chapter reads."""
    stored = store.read(store.RESULTS / "orders.json")
    settings = stored["settings"]
    x, y = chapters.right(tuple(settings["right_for"]), settings["images"], settings["seed"])
    drawn, labels = load_images("fashion-mnist", settings["images"], seed=settings["seed"])
    kept = [i for i in range(len(drawn)) if all(load_model(name)(drawn[i : i + 1]).argmax() == labels[i] for name in settings["right_for"])]
    assert torch.equal(x, drawn[kept])
    assert torch.equal(y, labels[kept])
    assert len(kept) >= settings["kept"]
    few = chapters.rounded(orders.study(load_model("fmnist-mlp"), x[:2], y[:2], few=1), 5)
    assert few["pgd"][1]["mean"][0] == pytest.approx(stored["networks"]["fmnist-mlp"]["pgd"][1]["mean"][0], rel=1e-3)
    assert few["fine"]["magnitude"][0] == pytest.approx(stored["networks"]["fmnist-mlp"]["fine"]["magnitude"][0], rel=1e-3)


def test_rounding_keeps_the_shape_of_a_result():
    tree = {"a": [1.23456789, 2.0], "b": [{"c": [[9.87654]]}]}
    assert chapters.rounded(tree, 3) == {"a": [1.23, 2], "b": [{"c": [[9.88]]}]}
    with pytest.raises(ValueError, match="NaN"):
        chapters.rounded({"a": [float("nan")]}, 3)


def test_each_study_is_written_by_its_command(monkeypatch):
    written = []
    monkeypatch.setattr(chapters, "STUDIES", {name: lambda name=name: written.append(name) for name in chapters.STUDIES})
    for name in chapters.STUDIES:
        command.main([name])
    assert written == ["coalitions", "closed-form-interactions", "orders", "transfer"]
