"""What a widget packs, looks up and computes, and the closed-form sweep's tables against plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import plotting
from irlib.quadratic import Quadratic
from irlib.widgets.closed_form import closed_form_tables
from irlib.widgets.fallback import fallback
from irlib.widgets.sweep import Coalition, Param, Sweep, Table, bars, heat, perturbation_frames
from irlib.widgets.tables import digits
from tests.conftest import make_images, make_network

PARAMS = [Param("a", "first", (0.5, 1.0, 3.0), open=True), Param("b", "second", (1, math.inf), lambda v: "∞" if v == math.inf else str(v))]
READOUTS = {"product": ("product", " m")}
CAPTION = "At {a} and {b} it is {product}."


def compute(a, b):
    grid = np.array([[[x, min(y, 9.0), x * min(y, 9.0)] for y in b] for x in a])
    return {"triple": Table(grid, ("a", "b")), "product": Table(grid[..., 2], ("a", "b")), "only_b": Table(np.array([min(y, 9) for y in b]), ("b",))}


@pytest.fixture
def sweep():
    return Sweep("s", "A sweep", PARAMS, compute, [bars("three", "triple", "xyz")], READOUTS, start={"a": 1.0}, caption=CAPTION)


def unpacked(directory, blob, name, **at):
    """The page's lookup, in Python."""
    t = directory[name]
    data = np.frombuffer(blob, t["dtype"], t["count"], t["offset"])
    flat = 0
    for param, length in t["over"]:
        flat = flat * length + (at[param] if length > 1 else 0)
    size = math.prod(t["shape"])
    return data[flat * size : (flat + 1) * size].reshape(t["shape"])


def test_every_entry_is_found_where_the_page_looks_for_it(sweep):
    for i, a in enumerate(PARAMS[0].values):
        for j, b in enumerate(PARAMS[1].values):
            for name in ("triple", "product", "only_b"):
                found = unpacked(sweep.spec["tables"], sweep.blob, name, a=i, b=j)
                np.testing.assert_allclose(found, sweep.at(name, a=a, b=b), rtol=1e-7)
    np.testing.assert_array_equal(unpacked(sweep.spec["tables"], sweep.blob, "colours"), plotting.diverging_colours())
    assert all(t["offset"] % 4 == 0 for t in sweep.spec["tables"].values())


def test_moving_to_a_stop_and_between_stops(sweep):
    assert sweep.value == {"a": 1.0, "b": 1}
    sweep.move(a=3.0, b=math.inf)
    assert sweep.index == {"a": 2, "b": 1}
    assert sweep.point == {}
    sweep.move(a=2.0)
    assert sweep.value == {"a": 2.0, "b": math.inf}
    np.testing.assert_allclose(unpacked(sweep.point["tables"], sweep.point_blob, "triple"), [2, 9, 18])
    assert sweep.point["texts"] == {"a": "2", "b": "∞"}
    sweep.move(b=1)
    assert sweep.value == {"a": 2.0, "b": 1}
    np.testing.assert_allclose(unpacked(sweep.point["tables"], sweep.point_blob, "product"), 2)
    sweep.move(a=0.5)
    assert (sweep.point, sweep.index) == ({}, {"a": 0, "b": 0})


def test_what_it_cannot_do_it_says(sweep):
    with pytest.raises(ValueError, match="no parameter 'c'; it has a, b"):
        sweep.move(c=1)
    with pytest.raises(ValueError, match="b must be one of"):
        sweep.move(b=3)
    with pytest.raises(ValueError, match="2.0 is no stop of a"):
        sweep.at("triple", a=2.0, b=1)
    with pytest.raises(ValueError, match="table 'triple' over"):
        Sweep("s", "t", PARAMS, lambda a, b: {"triple": Table(np.zeros((2, 2)), ("a", "b"))}, [], {}, caption="")


def test_the_pages_wish_is_answered_or_refused_in_words(sweep):
    sweep.wanted = {"a": 2.0}
    assert sweep.value["a"] == 2.0
    assert (sweep.wanted, sweep.problem) == ({}, "")
    sweep.wanted = {"b": 3}
    assert "b must be one of" in sweep.problem
    assert sweep.value == {"a": 2.0, "b": 1}
    sweep.wanted = {"a": 3.0}
    assert sweep.problem == ""


def test_two_builds_give_the_same_page(sweep):
    again = Sweep(
        "s", "A sweep", PARAMS, compute, [bars("three", "triple", "xyz")], {"product": ("product", " m")}, start={"a": 1.0}, caption=CAPTION
    )
    assert repr(again) == repr(sweep) == "Sweep('A sweep', a: 3 stops, b: 2 stops)"
    assert (again.spec, again.blob) == (sweep.spec, sweep.blob)


def test_the_fallback_has_the_numbers_of_the_first_sliders_stops(sweep):
    html = fallback(sweep.spec, sweep._entry)
    assert html.startswith('<noscript class="irw-fallback">')
    for cell in ("<td>0.5 m</td>", "<td>1 m</td>", "<td>3 m</td>", "second 1"):
        assert cell in html


def test_a_number_reads_as_javascript_prints_it():
    """Expected strings from String(Number(v.toPrecision(3))) of the float32 value."""
    cases = {
        0.0: "0",
        1.0: "1",
        -2.5: "−2.5",
        123456.0: "123000",
        1.125: "1.13",
        0.1: "0.1",
        1.5e-5: "0.000015",
        2e-7: "2e−7",
        3.14159e22: "3.14e+22",
    }
    assert {v: digits(v) for v in cases} == cases
    assert digits(math.nan) == "–"


def test_the_text_can_quote_a_readout(sweep):
    assert sweep.said("product") == "1 m"
    assert sweep.said("product", a=3.0, b=math.inf) == "27 m"
    with pytest.raises(ValueError, match="may name the parameters and readouts a, b, product"):
        Sweep("s", "t", PARAMS, compute, [], {"product": ("product", "")}, caption="{only_b}")


def explorer(v):
    params = [Param("image", "image", (0, 1)), Coalition("S", "coalition", n=4), Param("pair", "pair", (0, 1))]
    tables = {"v": Table(v.astype(np.float16), ("image", "S")), "pair": Table(np.array([[0, 2], [3, 1]], np.uint8), ("pair",))}
    readouts = {"v(S)": ("inside", ""), "Δv": ("joint", "")}
    game = {"v": "v", "pair": "pair"}
    return Sweep(
        "s", "t", params, lambda **_: tables, [bars("m", "marginals", "abcd")], readouts, {"S": 5}, caption="{S}: {inside}", coalition_game=game
    )


def test_a_coalitions_value_its_neighbours_and_a_pair():
    v = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float16).astype(float)
    sweep = explorer(v)
    for image in range(2):
        for S in range(16):
            members = {a for a in range(4) if S >> a & 1}
            value = lambda units: v[image, sum(1 << a for a in units)]  # noqa: B023
            assert sweep.at("inside", image=image, S=S) == value(members)
            np.testing.assert_allclose(
                sweep.at("marginals", image=image, S=S), [value(members | {a}) - value(members - {a}) for a in range(4)], rtol=1e-5
            )
            for pair, (a, b) in enumerate([(0, 2), (3, 1)]):
                rest = members - {a, b}
                expected = value(rest | {a, b}) - value(rest | {a}) - value(rest | {b}) + value(rest)
                assert sweep.at("joint", image=image, S=S, pair=pair) == pytest.approx(expected, abs=1e-12)
    assert sweep.spec["params"][1] == {"name": "S", "label": "coalition", "units": 4}
    assert sweep.value == {"image": 0, "S": 5, "pair": 0}
    assert unpacked(sweep.spec["tables"], sweep.blob, "v", image=1, S=9) == v[1, 9]
    assert "<td>" + sweep.said("joint", image=1) in fallback(sweep.spec, sweep._entry)


def test_a_view_that_does_not_fit_its_table_is_refused():
    with pytest.raises(ValueError, match=r"heat 'h' needs entries of shape \[2, 2\], table 'triple' has \[3\]"):
        Sweep("s", "t", PARAMS, compute, [heat("h", "triple", "ab", "cd")], {}, caption="")
    open_params = [PARAMS[0], Coalition("S", "S", n=2)]
    with pytest.raises(ValueError, match="no parameter may be open"):
        Sweep("s", "t", open_params, lambda **_: {"v": Table(np.zeros((3, 4)), ("a", "S"))}, [], {}, caption="", coalition_game={"v": "v"})
    with pytest.raises(ValueError, match="v must be a table of single numbers"):
        Sweep("s", "t", [Coalition("S", "S", n=2)], lambda **_: {"v": Table(np.zeros((4, 2)), ("S",))}, [], {}, caption="", coalition_game={"v": "v"})


def test_frames_keep_a_perturbation_to_half_a_level():
    delta = np.random.default_rng(0).normal(size=(3, 2, 5, 4)) * np.array([1e-6, 1, 0])[:, None, None, None]
    tables = perturbation_frames("d", delta, ("a", "b"))
    restored = tables["d"].data / 127 * tables["d_scale"].data[..., None]
    scale = np.abs(delta).max((-2, -1), keepdims=True)
    assert (np.abs(restored - delta) <= scale / 254 + 1e-18).all()


def test_the_closed_form_sweep_is_plain_loops():
    """Each number of the chapter's widget, one point at a time, from autograd's Hessian and hand-written ascent."""
    network, x = make_network(classes=4), make_images(batch=2)
    y = torch.tensor([1, 3])
    strengths, steps = (0.02, 0.1), (1, 3, math.inf)
    quadratics = [Quadratic.at(network, x[i : i + 1], y[i : i + 1]) for i in range(2)]
    tables = closed_form_tables(network, x, y, quadratics, strengths, steps)
    for k in range(2):
        image, label = x[k : k + 1], y[k : k + 1]
        loss = lambda flat: F.cross_entropy(network(flat.view(image.shape)), label)  # noqa: B023
        g = torch.autograd.functional.jacobian(loss, image.flatten())
        H = torch.autograd.functional.hessian(loss, image.flatten())
        top = torch.linalg.eigvalsh(H)[-1]
        basis = torch.linalg.eigh(H).eigenvectors[:, -3:]
        for i, s in enumerate(strengths):
            for j, m in enumerate(steps):
                beta, taken = s / top, 150 if m == math.inf else m
                network_delta, losses = torch.zeros_like(g), [loss(image.flatten())]
                for _ in range(taken):
                    network_delta = network_delta + beta / taken * torch.autograd.functional.jacobian(loss, image.flatten() + network_delta)
                    losses.append(loss(image.flatten() + network_delta))
                if m == math.inf:
                    augmented = torch.zeros(37, 37, dtype=torch.float64)
                    augmented[:36, :36], augmented[:36, 36] = H, g
                    closed = torch.linalg.matrix_exp(beta * augmented)[:36, 36]
                else:
                    closed = torch.zeros_like(g)
                    for _ in range(m):
                        closed = closed + beta / m * (g + H @ closed)
                at = lambda name: torch.as_tensor(tables[name].data[i, j, k])  # noqa: B023
                size = network_delta.norm()
                torch.testing.assert_close(at("beta"), beta)
                torch.testing.assert_close(at("norm"), closed.norm())
                torch.testing.assert_close(at("network_norm"), size)
                torch.testing.assert_close(at("gap"), 100 * (network_delta - closed).norm() / size, rtol=1e-6, atol=1e-6)
                away = network_delta - basis @ (basis.T @ network_delta)
                torch.testing.assert_close(at("outside"), 100 * away.norm() / size, rtol=1e-6, atol=1e-6)
                torch.testing.assert_close(at("rise"), g @ closed + closed @ H @ closed / 2)
                torch.testing.assert_close(at("network_rise"), loss(image.flatten() + network_delta) - loss(image.flatten()), rtol=1e-5, atol=1e-9)
                rise = losses[-1] - losses[0]
                shares = torch.as_tensor(tables["path_share"].data[j])
                assert shares[0] == 0
                assert shares[-1] == 1
                for share, ours, theirs in zip(shares.tolist(), at("path_closed"), at("path_network"), strict=True):
                    t = round(share * taken)
                    torch.testing.assert_close(theirs, (losses[t] - losses[0]) / rise.abs(), rtol=1e-5, atol=1e-6)
                    step, partial = beta / taken, torch.zeros_like(g)
                    if m == math.inf:
                        partial = torch.linalg.matrix_exp(beta * share * augmented)[:36, 36]
                    else:
                        for _ in range(t):
                            partial = partial + step * (g + H @ partial)
                    torch.testing.assert_close(ours, (g @ partial + partial @ H @ partial / 2) / rise.abs(), rtol=1e-5, atol=1e-6)
                drawn = torch.as_tensor(tables["weights"].data[i, j, k]) @ torch.as_tensor(tables["modes"].data[k]).flatten(1)
                torch.testing.assert_close(drawn, closed, rtol=0, atol=1e-10)
                for name in ("gap", "outside"):
                    torch.testing.assert_close(torch.as_tensor(tables[f"{name}_curve"].data[j, k, i]), at(name) / 100)
