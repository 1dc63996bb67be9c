"""The verdicts: made-up outcomes of known answer, the bootstrap by hand, and the stored results' shape."""

import re

import numpy as np
import pytest

from irlib.replicate import store, versus
from irlib.replicate.presets import METHODS, PRESETS

IMAGES, TARGETS = 40, 3


def outcomes(rng, scale=1.0, shift=0.0, rate=0.5):
    return {
        "norm": [1.2] * IMAGES,
        "ce": (scale * rng.gamma(4, 0.001, IMAGES) + shift).tolist(),
        "margin": rng.normal(0, 0.001, IMAGES).tolist(),
        "rise": rng.gamma(4, 1, IMAGES).tolist(),
        "utility": rng.normal(5 * rate, 1, IMAGES).tolist(),
        "fooled": ["".join("1" if u < rate else "0" for u in rng.uniform(size=IMAGES)) for _ in range(TARGETS)],
    }


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """PGD, a method "mi" with half of its interactions and more transfer, "pi" and "ghost" likewise but larger, "fi" the same as PGD."""
    rng = np.random.default_rng(0)
    versus.shard.cache_clear()
    monkeypatch.setattr(versus, "FOLDER", tmp_path)
    stored = {}
    for source in PRESETS["quick"].sources:
        base = {"source": source, "labels": [0] * IMAGES, "arrived": [1] * IMAGES, "device": "a processor", "versions": {"torch": "2.0"}}
        pgd = base | {
            "beta": outcomes(rng),
            "tau": outcomes(rng),
            "linf": outcomes(rng),
            "shortened": outcomes(rng),
            "arrived_shortened": [1] * IMAGES,
        }
        pgd["orders"] = rng.normal(0, 1, (4, 8)).tolist()
        made = {"pgd": pgd}
        for name, factor, rate in (("mi", 0.5, 0.9), ("pi", 3.0, 0.5), ("fi", 1.0, 0.5)):
            made[name] = base | {column: outcomes(rng, rate=rate) for column in ("tau", "linf")}
            for column in ("tau", "linf"):
                made[name][column]["ce"] = [factor * value for value in pgd[column]["ce"]]
            made[name]["orders"] = (np.array(pgd["orders"]) - 1).tolist()
        made["mi"]["beta"] = {q: v for q, v in outcomes(rng).items() if q not in ("utility", "fooled")} | {
            "ce": [value * (0.5 if k < 30 else 1e6) for k, value in enumerate(pgd["beta"]["ce"])]
        }
        made["mi"]["tau"]["altered"] = [2 * value for value in pgd["tau"]["ce"]]
        made["mi"]["arrived"] = [0] * 5 + [1] * (IMAGES - 5)
        made["pi"]["tau"]["ce"] = [3 * value for value in pgd["linf"]["ce"]]
        for name, result in made.items():
            stored[source, name] = result
            store.write(tmp_path / "quick" / f"{source}-{name}.json", result)
    (tmp_path / "quick" / "log.jsonl").write_text('{"shard": "a", "seconds": 1, "date": "2026-01-02 03:04", "commit": "abc"}\n' * 2)
    yield stored
    versus.shard.cache_clear()


def test_a_method_with_half_the_interaction_holds_and_one_with_three_times_fails(made_up):
    source = "fmnist-vgg"
    half, three = versus.judged("mi", "tau", "ce", source), versus.judged("pi", "tau", "ce", source)
    assert (half.verdict, three.verdict) == ("holds", "fails")
    assert half.images == IMAGES - 5  # those that do not arrive under one of the two count for neither
    assert half.share == 1 and three.share == 0
    own, other = (np.array(made_up[source, name]["tau"]["ce"])[5:] for name in ("mi", "pgd"))
    assert half.difference.mean == pytest.approx(100 * (own - other).mean() / other.mean()) == pytest.approx(-50)
    rng = np.random.default_rng(1)
    drawn = [(own - other)[rng.integers(0, len(own), len(own))].mean() / other.mean() * 100 for _ in range(4000)]
    np.testing.assert_allclose(half.difference[1:], np.quantile(drawn, [0.025, 0.975]), atol=0.15 * np.ptp(drawn))
    same = versus.judged("fi", "tau", "ce", source)
    assert same.verdict == "undecided" and same.difference == (0, 0, 0)
    assert re.fullmatch(r"−50 % \[−6\d, −4\d\]|−50 % \[−\d\d, −\d\d\]", str(half).replace("\u00a0", " "))


def test_pi_is_compared_with_pgd_in_the_ball(made_up):
    source = "fmnist-vgg"
    assert versus.judged("pi", "tau", "ce", source).difference.mean == pytest.approx(200)
    own, other = (np.array(made_up[source, name][column]["utility"]) for name, column in (("pi", "tau"), ("pgd", "linf")))
    assert versus.judged("pi", "tau", "utility", source).difference.mean == pytest.approx((own - other).mean())
    assert versus.judged("pi", "linf", "ce", source).difference.mean == pytest.approx(200)


def test_where_the_strengths_are_matched_each_image_counts_the_same(made_up):
    found = versus.judged("mi", "beta", "ce", "fmnist-vgg")
    assert found.share == 0.75 and found.difference.mean == pytest.approx(50 * (10 - 30) / 40) and found.unit == " points"
    assert found.verdict == "holds"  # although ten images are a million times larger


def test_success_is_in_points_and_altered_is_beside_pgd_on_the_source(made_up):
    source = "fmnist-vgg"
    rate = lambda name: np.mean([[digit == "1" for digit in row[5:]] for row in made_up[source, name]["tau"]["fooled"]])
    better = versus.judged("mi", "tau", "fooled", source)
    assert better.difference.mean == pytest.approx(100 * (rate("mi") - rate("pgd"))) and better.verdict == "fails" and better.unit == " points"
    assert versus.judged("mi", "tau", "altered", source).difference.mean == pytest.approx(100)
    own, other = (np.array(made_up[source, name]["tau"]["margin"])[5:] for name in ("mi", "pgd"))
    assert versus.judged("mi", "tau", "margin", source).difference.mean == pytest.approx(100 * (own - other).mean() / abs(other).mean())
    per_length = versus.judged("mi", "tau", "ce/norm²", source)
    assert per_length.difference.mean == pytest.approx(-50) and per_length.verdict == "holds"


def test_counts_columns_and_orders(made_up):
    assert versus.counts("mi", "tau", "ce") == {"holds": 3}
    assert versus.counted("mi", "tau", "ce") == "holds on 3 of 3 sources"
    assert versus.counted("fi", "linf", "ce") == "undecided on 3 of 3 sources"
    assert versus.has("mi", "beta") and not versus.has("fi", "beta") and not versus.has("fi", "tau", "altered")
    assert [round(d.mean, 6) for d in versus.order_differences("mi")] == [-1] * 8
    assert "2026-01-02" in versus.provenance() and "abc" in versus.provenance()


def test_table_and_figure_say_the_numbers_they_show(made_up):
    text = versus.table("mi")._repr_html_()
    for column, quantity, source, found in versus.rows("mi"):
        assert str(found) in text, (column, quantity, source)
    assert text.count("<tr>") == 1 + 2 + 5 + 4 and "smaller: holds" in text and "transfers better" in text
    alt = versus.figure("mi", "direction").alt
    assert str(versus.judged("mi", "linf", "fooled", "fmnist-vgg")) in alt
    assert f"{np.mean(versus.orders('mi')[:, 3]):.3g}" in versus.by_order("mi", "direction").alt


def test_a_result_that_is_not_there_names_the_command(made_up):
    with pytest.raises(FileNotFoundError, match="irlib.replicate methods --preset quick"):
        versus.shard("fmnist-vgg", "sgm")


def test_the_stored_preset_is_complete_and_whole():
    versus.shard.cache_clear()
    for method in METHODS:
        for source in versus.sources(method):
            found, images = versus.shard(source, method), PRESETS["quick"].images
            assert found["source"] == source and found["method"] == method and len(found["labels"]) == len(found["arrived"]) == images
            for column in {"beta", "tau", "linf"} - (set() if METHODS[method].raw else {"beta"}):
                assert {len(found[column][q]) for q in ("norm", "ce", "margin", "rise")} == {images}
                if column != "beta":
                    assert len(found[column]["fooled"]) == len(found["targets"]) == 11 and {len(row) for row in found[column]["fooled"]} == {images}
            arrived = np.array(found["arrived"]) == 1
            assert arrived.mean() > 0.5
            length = np.array(versus.shard(source, "pgd")["linf"]["norm"])[arrived] if method == "pi" else PRESETS["quick"].tau
            np.testing.assert_allclose(np.array(found["tau"]["norm"])[arrived], length, rtol=1e-3)
            assert max(found["linf"]["norm"]) <= 16 / 255 * 28 * 1.001
        assert versus.judged("pgd", "tau", "ce", "fmnist-vgg").difference == (0, 0, 0)
    assert versus.orders("mi").shape == (30, 8)
