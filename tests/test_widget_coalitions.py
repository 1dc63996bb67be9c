"""The explorer's tables against plain loops, and the stored files against the networks they were made from."""

import json
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from irlib import load_model
from irlib.widgets import coalitions
from irlib.widgets.coalitions import (
    ATTACKS,
    EPS,
    NETWORK,
    PAIRS,
    SOURCES,
    coalition_explorer,
    joint_effects,
    pair_tables,
    single_tables,
    stored,
)


def random_tables(seed=0):
    """Tables of the explorer's shape, made of noise."""
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(2, 2, 2**16))
    v -= v[..., :1]
    return {
        "x": rng.integers(0, 255, (2, 28, 28)).astype(np.uint8),
        "y": np.array([3, 1]),
        "delta": rng.normal(size=(2, 2, 28, 28)).astype(np.float32),
        "v": v.astype(np.float16),
        "shapley": rng.normal(size=(2, 2, 16)),
        "interaction": rng.normal(size=(2, 2, 16, 16)),
    }


def test_the_share_of_a_coalition_is_the_sum_over_its_units():
    tables = random_tables()
    made = single_tables(tables, [1])
    for S in (0, 1, 5, 40000, 2**16 - 1):
        expected = sum(tables["shapley"][0, 1, a] for a in range(16) if S >> a & 1)
        assert made["share"].data[0, S] == pytest.approx(expected, rel=2**-11, abs=1e-6)
    assert made["full"].data[0] == tables["v"][0, 1, -1]


def test_joint_effects_run_over_every_context_once():
    v = np.random.default_rng(1).normal(size=2**5)
    value = lambda *units: v[sum(2**u for u in units)]
    found = joint_effects(v, (1, 3))
    contexts = [S for size in range(4) for S in combinations((0, 2, 4), size)]
    expected = {sum(2**u for u in S): value(*S, 1, 3) - value(*S, 1) - value(*S, 3) + value(*S) for S in contexts}
    np.testing.assert_allclose(found, [expected[S] for S in sorted(expected)], rtol=1e-5, atol=1e-6)


def test_the_pairs_tables_are_plain_loops():
    tables = random_tables(2)
    pairs = [0, 37, 119]
    made = pair_tables(tables, [1, 0], [1], pairs)
    for i, attack in enumerate((1, 0)):
        v = tables["v"][attack, 1].astype(np.float64)
        np.testing.assert_array_equal(made["v"].data[i, 0], tables["v"][attack, 1])
        for k, (a, b) in enumerate(PAIRS[pairs]):
            of_size = [[] for _ in range(15)]
            for S in range(2**16):
                if not S >> a & 1 and not S >> b & 1:
                    of_size[S.bit_count()].append(v[S | 1 << a | 1 << b] - v[S | 1 << a] - v[S | 1 << b] + v[S])
            every = np.concatenate(of_size)
            assert [len(each) for each in of_size] == [comb(14, s) for s in range(15)]
            np.testing.assert_allclose(made["orders"].data[i, 0, k], [np.mean(each) for each in of_size], atol=1e-5)
            assert made["lowest"].data[i, 0, k] == pytest.approx(every.min(), abs=1e-5)
            assert made["highest"].data[i, 0, k] == pytest.approx(every.max(), abs=1e-5)
            assert made["below"].data[i, 0, k] == pytest.approx(100 * (every < 0).mean(), abs=0.02)
            assert made["pairwise"].data[i, 0, k] == tables["interaction"][attack, 1, a, b]
            assert made["units"].data[k].tolist() == [a, b]


def test_both_explorers_say_what_their_tables_hold():
    tables = random_tables(3)
    alone = coalition_explorer(tables)
    assert float(alone.at("inside", image=1, coalition=77)) == tables["v"][0, 1, 77]
    together = coalition_explorer(tables, pairs=True)
    values = dict(attack=1, image=0, pair=5, coalition=0)
    a, b = PAIRS[5]
    v = tables["v"][1, 0].astype(float)
    assert float(together.at("joint", **values)) == pytest.approx(v[1 << a | 1 << b] - v[1 << a] - v[1 << b], abs=1e-6)
    start = together.spec["start"]["pair"]
    assert np.abs(tables["interaction"][0, 0])[tuple(PAIRS[start])] == np.abs(tables["interaction"][0, 0][tuple(PAIRS.T)]).max()


def test_a_missing_file_says_how_to_make_it(monkeypatch, tmp_path):
    monkeypatch.setattr(coalitions, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m irlib.replicate coalitions"):
        stored.__wrapped__("study")


def test_the_files_say_what_they_were_made_by():
    for name in ("explorer", "study"):
        made_by = json.loads(str(stored(name)["made_by"]))
        assert made_by["sources"] == list(SOURCES)
        assert made_by["network"] == NETWORK
        assert made_by["attacks"] == list(ATTACKS)
        assert {"python", "torch", "numpy"} == set(made_by["versions"])


def test_the_stored_explorer_is_the_networks_in_half_precision():
    tables = stored("explorer")
    x = torch.from_numpy(tables["x"])[:, None].float() / 255
    y, delta = torch.from_numpy(tables["y"]), torch.from_numpy(tables["delta"])[:, :, None]
    assert delta.abs().max() <= EPS + 1e-6
    model, rng = load_model(NETWORK), np.random.default_rng(0)
    for attack in range(2):
        for i in range(2):
            for S in [*rng.integers(0, 2**16, 6).tolist(), 2**16 - 1]:
                masked = torch.zeros_like(x[i])
                for a in range(16):
                    if S >> a & 1:
                        rows, columns = slice(7 * (a // 4), 7 * (a // 4) + 7), slice(7 * (a % 4), 7 * (a % 4) + 7)
                        masked[:, rows, columns] = delta[attack, i][:, rows, columns]
                with torch.no_grad():
                    clean, now = (F.cross_entropy(model(image[None]).double(), y[i : i + 1]) for image in (x[i], x[i] + masked))
                assert float(tables["v"][attack, i, S]) == pytest.approx(float(now - clean), rel=2**-11, abs=1e-4)
    # the values were computed before v was rounded
    np.testing.assert_allclose(tables["shapley"].sum(-1), tables["v"][..., -1].astype(float), rtol=2**-11)
    rows = tables["interaction"].sum(-1)
    v = tables["v"].astype(float)
    single = 2 ** np.arange(16)
    np.testing.assert_allclose(rows, v[..., -1:] - v[..., 2**16 - 1 - single] - v[..., single], atol=3 * 2**-11 * v.max())


def test_the_studys_last_perturbation_is_pgds_at_the_length_of_irs():
    delta = stored("study")["delta"].astype(float)
    length = np.linalg.norm(delta.reshape(*delta.shape[:3], -1), axis=-1)
    np.testing.assert_allclose(length[:, 2], length[:, 1], rtol=1e-5)
    np.testing.assert_allclose(delta[:, 2] / length[:, 2, :, None, None], delta[:, 0] / length[:, 0, :, None, None], atol=1e-6)


def test_the_study_is_the_networks():
    study, i = stored("study"), 3
    x, y = torch.from_numpy(study["x"][i])[None, None].float() / 255, torch.from_numpy(study["y"][i : i + 1])
    for s, source in enumerate(SOURCES):
        model = load_model(source)
        u = lambda d: float(F.cross_entropy(model(x + torch.from_numpy(d)).double(), y))  # noqa: B023
        margin = lambda d: model(x + torch.from_numpy(d))[0]  # noqa: B023
        for k in range(3):
            d = study["delta"][s, k, i][None, None]
            with torch.no_grad():
                assert study["v"][s, k, i, -1] == pytest.approx(u(d) - u(0 * d), rel=1e-4, abs=1e-4)
                only, without = np.zeros_like(d), d.copy()
                only[..., 4:8, 8:12], without[..., 4:8, 8:12] = d[..., 4:8, 8:12], 0  # cell 9 of 7×7: second row, third column
                expected = u(d) - u(without) - u(only) + u(0 * d)
                assert study["rows"][s, k, i, 9] == pytest.approx(expected, rel=1e-3, abs=1e-4)
                z = margin(d)
                rival = int(z.masked_fill(torch.arange(10) == y, -torch.inf).argmax())
                w = lambda d: float(margin(d)[rival].double() - margin(d)[y[0]].double())  # noqa: B023
                total = 0.0
                for a in range(49):
                    cell = np.zeros_like(d)
                    cell[..., 4 * (a // 7) : 4 * (a // 7) + 4, 4 * (a % 7) : 4 * (a % 7) + 4] = 1
                    total += w(d) - w(d * (1 - cell)) - w(d * cell) + w(0 * d)
                assert study["margin"][s, k, i] == pytest.approx(total, rel=1e-3, abs=1e-3)
