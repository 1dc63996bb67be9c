"""The correlation widget's tables against plain loops over a made-up run."""

import numpy as np
import pytest

from irlib.widgets.negative_correlation import negative_correlation, tables, target_groups
from tests.test_replicate import made_up_shards


@pytest.fixture(scope="module")
def shards():
    return made_up_shards()


def test_every_source_has_the_same_groups_of_targets(shards):
    for source in ("fmnist-resnet14", "fmnist-densenet40"):
        groups = target_groups(source, shards[source, "p2"]["targets"])
        assert list(groups) == list(target_groups("fmnist-resnet26", shards["fmnist-resnet26", "p2"]["targets"]))
        assert all(source not in names for names in groups.values())
        family = "densenet" if "resnet" in source else "resnet"
        assert [name.removeprefix("fmnist-").rstrip("0123456789") for name in groups["other family, both"]] == [family] * 2
        assert len(groups["all eleven networks"]) == 11


def test_each_number_is_a_plain_loop(shards):
    """From the stored lists, one setting and image at a time, and NumPy's own correlation and line."""
    sources, groups, ps, taus = ("fmnist-resnet14", "fmnist-densenet22"), ("other family, both", "fmnist-vgg"), (2, 5), (0.4, 0.8)
    found = tables(shards, sources, groups, ps, taus, (0, 1))
    drawn = 0
    for i, j, k, t, u in np.ndindex(2, 2, 2, 2, 2):
        shard = shards[sources[i], f"p{ps[k]}"]
        at = shard["taus"].index(taus[t])
        names = target_groups(sources[i], shard["targets"])[groups[j]]
        steps = [rows[at] for rows in shard["step"]]
        share = [sum(s >= 0 for s in row) / len(row) for row in steps]
        kept = [s >= 0.5 for s in share]
        used = [b for b in range(len(steps[0])) if all(row[b] >= 0 for row, k_ in zip(steps, kept, strict=True) if k_)]
        x = [1000 * np.mean([shard["interaction"][s][at][b] for b in used]) for s in range(len(steps))]
        y = [np.mean([shard["utility"][shard["targets"].index(n)][s][at][b] for b in used for n in names]) for s in range(len(steps))]
        filled = [True] * len(steps) if u else kept
        np.testing.assert_allclose(found["points"].data[i, j, k, t, u], np.column_stack([x, y, filled]), rtol=1e-12)
        assert found["left"].data[i, k, t] == kept.count(False)
        assert found["images"].data[i, k, t] == len(used)
        np.testing.assert_allclose(found["share"].data[i, k, t], share)
        fx, fy = (np.array([v for v, f in zip(values, filled, strict=True) if f]) for values in (x, y))
        if len(fx) < 3:
            assert np.isnan(found["line"].data[i, j, k, t, u]).all()
            assert np.isnan(found["r"].data[i, j, k, t, u])
            continue
        drawn += 1
        assert found["r"].data[i, j, k, t, u] == pytest.approx(np.corrcoef(fx, fy)[0, 1])
        assert found["low"].data[i, j, k, t, u] <= found["high"].data[i, j, k, t, u]
        slope, height = np.polyfit(fx, fy, 1)
        ends = found["line"].data[i, j, k, t, u]
        np.testing.assert_allclose(ends[:, 0], [fx.min(), fx.max()])
        np.testing.assert_allclose(ends[:, 1], height + slope * ends[:, 0], rtol=1e-9)
    assert drawn > 20


def test_the_switch_changes_the_line_and_not_the_points(shards):
    sweep = negative_correlation(shards)
    out, kept = (sweep.at("points", source=0, target=0, p=2, tau=0.8, unreached=u) for u in (0, 1))
    np.testing.assert_array_equal(out[:, :2], kept[:, :2])
    assert 0 < out[:, 2].sum() < 10
    assert kept[:, 2].all()
    assert sweep.said("r", p=2, tau=0.8, unreached=1) != sweep.said("r", p=2, tau=0.8)
