"""The explorer's tables against plain loops: one image, one step count, one attack at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import AttackGame, create_attack, interaction_matrix, total_interaction
from irlib.widgets.explorer import GRID, explorer, explorer_tables
from irlib.widgets.sweep import Param
from tests.conftest import make_images, make_network

MOMENTUM = Param("decay", "momentum μ", (0.0, 1.0))


def momentum(model, decay):
    return create_attack("mi", model, decay=decay)


@pytest.fixture(scope="module")
def few():
    """Two sources, of which the first is a target too, one more target, three images and their labels."""
    networks = {f"n{seed}": make_network(seed, classes=10, size=14) for seed in range(3)}
    x = make_images(batch=3, size=14)
    return {n: networks[n] for n in ("n0", "n1")}, {n: networks[n] for n in ("n0", "n2")}, x, networks["n2"](x).argmax(1)


def test_the_tables_are_plain_loops(few):
    sources, targets, x, y = few
    steps, values = [1, 4], [0.0, 1.0]
    tables = explorer_tables(momentum, sources, targets, x, y, steps, values, "decay")
    seen = set()
    for i, (name, source) in enumerate(sources.items()):
        for j in range(len(x)):
            for k, m in enumerate(steps):
                for ending, at, attack in [
                    ("_pgd", (i, j, k), "pgd"),
                    ("", (i, j, k, 0), "pgd"),
                    ("", (i, j, k, 1), "mi"),
                ]:
                    image, label = x[j : j + 1], y[j : j + 1]
                    delta = create_attack(attack, source, steps=m)(image, label) - image
                    number = lambda key: float(tables[f"x_{key}{ending}"].data[at])  # noqa: B023
                    assert number("loss") == pytest.approx(F.cross_entropy(source(image + delta), label).item(), rel=1e-5)
                    game = AttackGame(source, image, delta, label, grid=GRID)
                    assert number("total") == pytest.approx(total_interaction(game).item(), abs=1e-5)
                    assert number("norm") == pytest.approx(delta.norm().item(), rel=1e-5)
                    others = [target for other, target in targets.items() if other != name]
                    assert number("fooled") == sum(int(target(image + delta).argmax(1) != label) for target in others)
                    frame, scale = (tables[f"x_delta{ending}{end}"].data[at] for end in ("", "_scale"))
                    np.testing.assert_allclose(frame / 127 * scale, delta[0, 0], atol=scale.item() / 254 + 1e-7)
                    frame, scale = (tables[f"x_map{ending}{end}"].data[at] for end in ("", "_scale"))
                    assert (frame / 127 * scale).sum() == pytest.approx(number("total"), abs=scale.item() / 254 * GRID**2 + 1e-5)
                    assert tables[f"x_totals{ending}"].data[at[:2] + at[3:]][k] == number("total")
                    assert tables[f"x_fooleds{ending}"].data[at[:2] + at[3:]][k] == number("fooled")
                    seen.add(number("fooled"))
    assert len(seen) > 1
    assert tables["x_image"].data.shape == (3, *x.shape[-2:])


def test_the_maps_are_row_sums_of_the_interaction_matrix(few, monkeypatch):
    sources, targets, x, y = few
    monkeypatch.setattr("irlib.widgets.explorer.GRID", 3)
    tables = explorer_tables(momentum, sources, targets, x, y, [4], [1.0], "decay")
    delta = create_attack("mi", sources["n1"], steps=4)(x, y) - x
    rows = interaction_matrix(AttackGame(sources["n1"], x, delta, y, grid=3)).sum(2)
    scale = tables["x_map_scale"].data[1, :, 0, 0].reshape(3, 1)
    np.testing.assert_allclose(tables["x_map"].data[1, :, 0, 0].reshape(3, 9) / 127 * scale, rows, atol=float(scale.max()) / 254 + 1e-5)


def test_the_widget_quotes_its_tables_and_refuses_a_short_attack(few):
    sources, targets, x, y = few
    sweep = explorer("mi", "MI", MOMENTUM, momentum, sources, targets, x, y, {"decay": 1.0}, token="direction", short="MI")
    assert sweep.value == {"source": 0, "image": 0, "steps": 10, "decay": 1.0}
    assert sweep.at("x_total", source=1, image=2, steps=4, decay=0.0) == pytest.approx(sweep.at("x_total_pgd", source=1, image=2, steps=4))
    assert sweep.said("x_fooled").endswith(" of 1")
    sweep.move(source=1, decay=0.0)
    assert sweep.value == {"source": 1, "image": 0, "steps": 10, "decay": 0.0}
    short = lambda model, decay: create_attack("mi", model, steps=5)
    with pytest.raises(ValueError, match="takes 5 steps, the explorer shows 10"):
        explorer("mi", "MI", MOMENTUM, short, sources, targets, x, y, token="direction", short="MI")


def test_an_attack_on_another_network_is_measured_on_the_source(few):
    sources, targets, x, y = few
    other = make_network(7, classes=10, size=14)
    tables = explorer_tables(lambda model, value: create_attack("pgd", other), sources, targets, x, y, [10], [0.0], "which")
    delta = create_attack("pgd", other)(x, y) - x
    expected = total_interaction(AttackGame(sources["n0"], x, delta, y, grid=GRID))
    torch.testing.assert_close(torch.as_tensor(tables["x_total"].data[0, :, 0, 0]), expected, atol=1e-5, rtol=0)
