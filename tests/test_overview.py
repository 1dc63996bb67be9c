"""All methods at once, on the stored results: the table, the cloud and the widget say what the shards say."""

import re

import numpy as np
import pytest
import torch

from irlib import AttackGame, create_attack, load_images, load_model, total_interaction
from irlib.replicate import methods, versus
from irlib.replicate.overview import SHOWN, across, summary, timeline
from irlib.replicate.presets import METHODS, PRESETS
from irlib.transfer import all_right
from irlib.widgets import comparison

SOURCES = PRESETS["quick"].sources


def test_the_cast_is_everyone_with_the_slot_of_the_library():
    from irlib.attacks import METHODS as LIBRARY

    variants = {"adv2", "adv8", "ia-trained", "pgd"}
    assert SHOWN.keys() | variants == METHODS.keys()
    for key, (_, slot, year) in SHOWN.items():
        assert 2017 < year < 2024
        if METHODS[key].attack != "pgd":
            assert slot in LIBRARY[METHODS[key].attack][0]


@pytest.mark.parametrize("source", SOURCES)
def test_a_cloud_is_averages_over_the_same_images_and_its_r_is_numpys(source):
    cloud = across(source)
    assert next(iter(cloud.shown)) == "pgd" and "pi" not in cloud.shown and ("sgm" in cloud.shown) == (source != "fmnist-vgg")
    used = np.all([np.array(versus.shard(source, key)["arrived"]) == 1 for key in cloud.shown], axis=0)
    assert cloud.images == used.sum() > 100
    for quantity, column in (("ce", 0), ("fooled", 1)):
        pgd, *others = (versus.values(source, key, "tau", quantity)[used].mean() for key in cloud.shown)
        expected = [100 * (o / pgd - 1) if column == 0 else 100 * (o - pgd) for o in others]
        np.testing.assert_allclose(cloud.points[1:, column], expected, atol=1e-9)
    assert cloud.points[0].tolist() == [0, 0]
    assert cloud.r.mean == pytest.approx(np.corrcoef(cloud.points.T)[0, 1])


def test_the_table_has_a_row_a_method_and_numbers_to_sort_by():
    text = summary()._repr_html_()
    rows = re.findall(r"<tr><th scope=\"row\">(.*?)</th>(.*?)</tr>", text)
    assert [title for title, _ in rows] == [title for title, *_ in SHOWN.values()]
    for key, (_, cells) in zip(SHOWN, rows, strict=True):
        values = re.findall(r'data-value="([^"]+)">([^<]*)<', cells)
        assert len(values) == 7
        expected = np.mean([versus.judged(key, "tau", "ce", source).difference.mean for source in versus.sources(key)])
        assert float(values[1][0]) == pytest.approx(expected, rel=1e-5)
        assert values[2][1] == f"{versus.counts(key, 'tau', 'ce')['holds']} of {len(versus.sources(key))}"
        assert (values[0][1] == "–") == (not METHODS[key].raw)


def test_the_timeline_names_everyone():
    alt = timeline().alt
    assert all(title.split()[-1] in alt for title, *_ in SHOWN.values())


@pytest.fixture(scope="module")
def sweep():
    x, y = all_right(*load_images("fashion-mnist", 60, seed=1), [load_model(name) for name in SOURCES])
    return x[:1], y[:1], comparison.side_by_side(x[:1], y[:1], methods.guides(x, y)[:1])


def test_the_widgets_numbers_are_the_verdicts(sweep):
    _, _, widget = sweep
    keys = list(SHOWN)
    for source, a, b, column in ((0, "rap", "fd", 0), (2, "il", "ghost", 1), (1, "sgm", "pi", 0)):
        at = {"first": keys.index(a), "second": keys.index(b), "source": source, "column": column}
        name = comparison.COLUMNS[column]
        for which, key in (("first", a), ("second", b)):
            for table, quantity in (("interaction", "ce"), ("success", "fooled"), ("margin", "margin")):
                expected = versus.judged(key, name, quantity, SOURCES[source]).difference.mean
                own = {k: v for k, v in at.items() if k in (which, "source", "column")}
                assert widget.at(f"{table}_{which}", **own) == pytest.approx(expected)
        points = widget.at("points", **at)
        assert {keys[k] for k in np.flatnonzero(points[:, 2])} == {a, b}
        assert points[keys.index(a), 0] == pytest.approx(versus.judged(a, name, "ce", SOURCES[source]).difference.mean, rel=2e-3)
        assert points[keys.index(b), 1] == pytest.approx(versus.judged(b, name, "fooled", SOURCES[source]).difference.mean, rel=2e-3, abs=1e-2)
        bars = widget.at("interactions", **at)
        assert bars[1] == pytest.approx(versus.judged(b, name, "ce", SOURCES[source]).difference.mean)


def test_what_was_not_measured_is_a_dash_and_no_picture(sweep):
    _, _, widget = sweep
    sgm, vgg = list(SHOWN).index("sgm"), SOURCES.index("fmnist-vgg")
    assert widget.said("interaction_first", first=sgm, source=vgg).startswith("–")
    assert not widget.at("delta_first", first=sgm, source=vgg).any()
    assert np.isnan(widget.at("points", first=sgm, second=0, source=vgg, column=0)[sgm, 0])


def test_the_pictures_are_the_published_attacks(sweep):
    x, y, widget = sweep
    model = load_model("fmnist-densenet22")
    delta = create_attack("il", model)(x, y) - x
    at = {"second": list(SHOWN).index("il"), "source": 1}
    scale = widget.at("delta_second_scale", **at).item()
    np.testing.assert_allclose(widget.at("delta_second", **at) / 127 * scale, delta[0, 0], atol=scale / 254 + 1e-6)
    scale = widget.at("cells_second_scale", **at).item()
    total = total_interaction(AttackGame(model, x, delta, y, grid=7)).item()
    assert (widget.at("cells_second", **at) / 127 * scale).sum() == pytest.approx(total, abs=49 * scale / 254 + 1e-4)
    assert torch.equal(torch.from_numpy(widget.table("original").data), (255 * x[0, 0]).round().to(torch.uint8))
