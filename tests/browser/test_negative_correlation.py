"""The chapter's widget in the built page: the cloud, its line and its r are those of the stored run."""

import numpy as np
import pytest

from irlib.replicate import fig2
from irlib.replicate.correlation import settings
from irlib.widgets.negative_correlation import target_groups
from tests.browser.test_closed_form import shown, slide

PAGE = "notebooks/negative-correlation.html"


@pytest.fixture(scope="module")
def shards():
    return fig2.published()


@pytest.mark.parametrize(("source", "target", "p", "tau", "unreached"), [(0, 0, 1, 1, 0), (0, 0, 1, 1, 1), (1, 4, 0, 2, 0), (2, 11, 1, 0, 1)])
def test_the_numbers_are_those_of_the_run(open_page, shards, source, target, p, tau, unreached):
    name = list(dict.fromkeys(s for s, _ in shards))[source]
    shard = shards[name, f"p{(2, 5)[p]}"]
    found = settings(shard, fig2.TAUS[tau], list(target_groups(name, shard["targets"]).values())[target])
    page = open_page(PAGE)
    slide(page, source=source, target=target, p=p, tau=tau, unreached=unreached)
    r = found.correlation(bool(unreached))
    for readout, value in (("r", r.mean), ("low", r.low), ("high", r.high), ("left", (~found.kept).sum()), ("images", found.used.sum())):
        assert shown(page, readout) == pytest.approx(value, rel=6e-3, abs=1e-6)
    drawn = [dot.get_attribute("data-kept") for dot in page.locator("circle[data-kept]").all()]
    assert drawn == ["1" if unreached or k else "0" for k in found.kept]
    titles = page.locator("circle[data-kept] title").all_text_contents()
    first = np.array([float(t.split(",")[0].replace("−", "-")) for t in titles])
    np.testing.assert_allclose(first, 1000 * found.points()[:, 0], rtol=6e-3)


def test_the_switch_moves_the_line_and_no_point(open_page):
    page = open_page(PAGE)
    line = page.locator('path[data-series="line"]')
    before = [(dot.get_attribute("cx"), dot.get_attribute("cy")) for dot in page.locator("circle[data-kept]").all()]
    path = line.get_attribute("d")
    slide(page, unreached=1)
    assert [(dot.get_attribute("cx"), dot.get_attribute("cy")) for dot in page.locator("circle[data-kept]").all()] == before
    assert line.get_attribute("d") != path
    assert "kept, r is" in page.locator(".irw [aria-live]").inner_text()
