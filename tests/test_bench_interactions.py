"""The benchmark of interactions: what is timed and compared, by counting and by enumeration; the tables; the command line."""

import json

import pytest
import torch

import irlib
from irlib.bench import clock, curvature, errors, interactions, speed, tables
from irlib.bench.__main__ import main
from irlib.bench.subjects import subject
from irlib.bench.tables import Table, published
from irlib.game import TableGame
from irlib.interactions import interaction_matrix, mean_interaction, total_interaction

TINY = ["interactions", "--networks", "fmnist-mlp", "--estimated", "fmnist-mlp", "--images", "2", "--repeats", "1"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def at():
    return subject("fmnist-mlp", 2)


def test_a_subject_is_attacked_images_that_the_network_classifies_right(at):
    assert len(at.x) == 2 and at.model(at.x).argmax(1).equal(at.y)
    assert at.delta.abs().max() <= 16 / 255 + 1e-6
    assert total_interaction(at.game(4)).shape == (2,)
    torch.testing.assert_close(at.only(1).game(4, scale=0.5).delta, 0.5 * at.delta[1:])
    assert at.double().game(4).x.dtype == torch.float64 and next(at.model.parameters()).dtype == torch.float32


def test_another_name_is_an_architecture_of_random_weights():
    at = subject("squeezenet1_1", 1)
    assert at.x.shape == (1, 3, 224, 224) and at.model(at.x).shape == (1, 1000)


def test_the_loop_makes_the_forwards_of_eq_12_one_by_one(at):
    rows = []
    one = at.only(0)
    with one.model.register_forward_pre_hook(lambda _module, inputs: rows.append(inputs[0])):
        speed._one_by_one(one, 3)
    assert len(rows) == 2 * 9 + 2 and all(len(row) == 1 for row in rows)
    game = one.game(3)
    losses = torch.stack([torch.nn.functional.cross_entropy(one.model(row), one.y).double() for row in rows])
    torch.testing.assert_close(game(speed._eq12(9, one.x.device))[0], losses - losses[0], rtol=0, atol=1e-5)


def test_the_bare_passes_of_the_loss_are_as_many_as_ours(at, monkeypatch):
    calls = {}

    def compared(ours, other, repeats, scale=1, cuda=False):
        for name, call in (("ours", ours), ("other", other)):
            rows = []
            with torch.nn.modules.module.register_module_forward_pre_hook(
                lambda module, inputs, rows=rows: rows.append(len(inputs[0])) if type(module).__name__ == "Normalized" else None
            ):
                call()
            calls.setdefault(name, []).append(rows)
        return {"ratio": 1.0, "lowest": 1.0, "highest": 1.0, "seconds": 1.0}

    monkeypatch.setattr(speed, "compared", compared)
    parser = type("args", (), dict(networks=["fmnist-mlp"], device="cpu", repeats=1))
    table = speed.loss(parser)
    for ours, bare in zip(calls["ours"][::2], calls["other"][::2], strict=True):
        assert sorted(ours) == sorted(bare)
    assert table.column("samples") == [66, 66 * 8]
    assert len(calls["ours"][1]) == 65  # the loop, timed over ours


def test_peak_memory_sees_what_is_freed_again():
    if not clock.CLEAR.exists():
        assert clock.peak_memory(lambda: None) is None
        return
    assert clock.peak_memory(lambda: torch.ones(30_000_000).sum()) == pytest.approx(120e6, rel=0.2)
    assert clock.peak_memory(lambda: None) < 20e6


def test_fewer_players_are_the_game_without_the_others():
    full = TableGame(torch.randn(1, 2**5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    fewer = errors.FewerPlayers(full, 3)
    torch.testing.assert_close(interaction_matrix(fewer), interaction_matrix(TableGame(full.values[:, : 2**3])))


def test_a_random_quadratic_has_the_interactions_it_says():
    game = errors.QuadraticGame(7, seed=1)
    expected = game.interactions.clone().fill_diagonal_(0)
    torch.testing.assert_close(interaction_matrix(game)[0], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["authors", "partition"])
def test_samplers_are_compared_in_units_of_the_mean_over_pairs(kind, monkeypatch):
    monkeypatch.setattr(errors, "REPETITIONS", 300)
    game = errors.QuadraticGame(25, seed=0)
    found, cells = errors._estimates(game, kind, 5)
    assert cells == pytest.approx({"authors": 25 * (1 - (24 / 25) ** 5), "partition": 5}[kind], rel=0.02)
    assert found.shape == (1, 300)
    assert abs(found.mean() - mean_interaction(game)[0]) < 4.5 * found.std() / 300**0.5


def test_errors_are_relative_and_a_refused_budget_is_no_error():
    games = [errors.QuadraticGame(6, seed) for seed in (0, 1)]
    truth = [interaction_matrix(game)[0] for game in games]

    def a_tenth_too_much(game, budget, seed):
        return 1.1 * truth[games.index(game)] + torch.eye(6)  # the diagonal does not count

    assert errors._errors(a_tenth_too_much, games, truth, 10) == pytest.approx(0.1, abs=1e-4)

    def refuses(game, budget, seed):
        raise ValueError("budget=10 is too small")

    assert errors._errors(refuses, games, truth, 10) is None


def test_predictors_are_judged_by_the_median_image_of_the_measured_total(at, monkeypatch):
    monkeypatch.setattr(curvature, "DIVISORS", (4,))
    table = curvature.predictors(type("args", (), dict(estimated=["fmnist-mlp"], images=2, device="cpu")))
    at = at.double()
    total = total_interaction(at.game(7, 0.25))
    for predictor, found in zip(("hessian", "secant"), (row[-1] for row in table.rows), strict=True):
        missed = ((getattr(irlib.local, predictor)(at.game(7, 0.25), diagonal=False) - total) / total).abs()
        assert found == pytest.approx(missed.median().item(), rel=1e-3)


def test_main_prints_every_section_and_writes_json(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(errors, "SEEDS", 1)
    monkeypatch.setattr(errors, "REFERENCE", 2600)
    monkeypatch.setattr(errors, "REPETITIONS", 2)
    monkeypatch.setattr(errors, "BUDGETS", {12: (250, 1000), 49: (1400, 2500)})
    monkeypatch.setattr(errors, "_shapiq", lambda order: {})
    monkeypatch.setattr(curvature, "DIVISORS", (1,))
    out = tmp_path / "interactions.json"
    main([*TINY, "--out", str(out)])
    result, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(result["tables"]) == list(interactions.SECTIONS)
    for stored in result["tables"].values():
        assert stored["title"] in printed and stored["note"] in printed
        assert all(len(row) == len(stored["headings"]) for row in stored["rows"])
    assert result["device"] and result["versions"]["torch"] == torch.__version__ and result["settings"]["images"] == 2
    assert {row[0] for row in result["tables"]["estimators"]["rows"]} == {"irlib", "irlib contexts", "irlib regression"}

    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    ((table, provenance),) = published("samplers")
    assert table.stored() == Table(**result["tables"]["samplers"]).stored()
    assert result["device"] in provenance and result["date"][:10] in provenance and torch.__version__ in provenance


def test_shapiq_is_compared_on_its_own_terms():
    pytest.importorskip("shapiq")
    game = errors.QuadraticGame(6, seed=2)
    truth = interaction_matrix(game)[0]
    found = errors._shapiq(2)["shapiq KernelSHAPIQ"](game, 64, 0)  # all coalitions
    torch.testing.assert_close(found, truth, rtol=0, atol=1e-4)  # a weighted regression: exact but for its large weights
    assert truth.abs().mean() > 1
    values = errors._shapiq(1)["shapiq KernelSHAP"](game, 64, 0)
    torch.testing.assert_close(values, irlib.shapley_values(game)[0], rtol=0, atol=1e-4)


def test_cells_are_shown_as_what_they_are():
    table = Table("T", ("name", "n", "ratio", "error %", "none"), [("a", 12, 1.23456, 0.0123, None)], "N")
    assert table.plain().splitlines()[2].split() == ["a", "12", "1.23", "1.23", "–"]
    assert "<td>1.23</td>" in table.html() and "<code>a</code>" in table.html()
