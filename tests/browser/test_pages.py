"""Every built page: offline, without errors, 390 px wide, light and dark, formulas set, links alive."""

import json
import re
from urllib.parse import urldefrag

import pytest

from tests.browser.conftest import HTML, ROOT, SHOTS, chapters, pages

NOTEBOOKS = [path for path in chapters() if path.startswith("notebooks/")]


@pytest.mark.parametrize("path", [path for path in pages() if path not in chapters()])
def test_other_pages_load_offline_without_errors_and_fit_a_phone(open_page, path):
    for width in (1280, 390):
        page = open_page(path, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("path", pages())
def test_nothing_in_the_source_is_loaded_from_elsewhere(path):
    source = (HTML / path).read_text()
    assert not re.findall(r'<(?:script|link(?! rel="(?:canonical|index|search|next|prev))|img|iframe)[^>]+(?:src|href)="(?:https?:)?//[^"]+', source)


# Contrast of what our own markup draws: figures' and widgets' text at 4.5:1, their lines at 3:1
POOR_CONTRAST = """
() => {
    const rgb = (c) => { const v = (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number); return v.length > 3 && v[3] === 0 ? null : v.slice(0, 3); };
    const lum = (c) => c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [0.2126, 0.7152, 0.0722][i], 0);
    const ground = (e) => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c) return c; } return [255, 255, 255]; };
    const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
    const poor = [];
    for (const e of document.querySelectorAll(".irw label, .irw output, .irw figcaption, .irw dt, .irw dd, .irw a, .irw button, .irw-scale span"))
        if (ratio(rgb(getComputedStyle(e).color), ground(e)) < 4.5) poor.push(e.outerHTML);
    for (const e of document.querySelectorAll(".irw svg text, .irw-figure svg text:not(:has(tspan)), .irw-figure svg tspan"))
        if (ratio(rgb(getComputedStyle(e).fill), ground(e)) < 4.5) poor.push(e.outerHTML);
    for (const e of document.querySelectorAll(".irw-line, .irw-figure path[style*='fill: none']"))
        if (rgb(getComputedStyle(e).stroke) && ratio(rgb(getComputedStyle(e).stroke), ground(e)) < 3) poor.push(e.outerHTML.slice(0, 200));
    return poor;
}"""


@pytest.mark.parametrize("path", chapters())
def test_every_page_is_offline_without_errors_fits_and_can_be_read_in_light_and_dark(open_page, path):
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page = open_page(path, width, scheme)
            assert page.locator("html").get_attribute("data-theme") == scheme
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            SHOTS.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=SHOTS / f"{path.replace('/', '-').removesuffix('.html')}-{width}-{scheme}.png", full_page=True)
            if width == 1280:
                poor = page.evaluate(POOR_CONTRAST)
                assert not poor, f"{scheme}: {poor[:3]}"


@pytest.mark.parametrize("path", chapters())
def test_formulas_are_set_links_lead_somewhere_and_pictures_are_described(open_page, path, base):
    page = open_page(path)
    raw = page.locator("span.math, div.math").count()
    assert page.locator("mjx-container").count() >= raw
    assert page.locator("mjx-merror").count() == 0
    if path.startswith("notebooks/") and path != "notebooks/comparison.html":
        assert raw > 20

    for href in page.eval_on_selector_all("main a[href]", "links => links.map(a => a.href)"):
        target, fragment = urldefrag(href)
        if target.startswith(base) and not page.locator(f'.irw a[href="#{fragment}"]').count():
            file = HTML / target.removeprefix(base)
            assert file.is_file(), href
            if fragment and file.suffix == ".html":
                assert f'id="{fragment}"' in file.read_text(), href

    for image in page.locator("main img").all():
        assert image.get_attribute("alt")
    for drawn in page.locator(".irw canvas, .irw figure > svg, .irw-figure > svg").all():
        assert len(drawn.get_attribute("aria-label")) > 4


@pytest.mark.parametrize("path", chapters())
def test_a_page_stays_light(path):
    assert (HTML / path).stat().st_size <= 1_500_000


@pytest.mark.parametrize("path", chapters())
def test_colab_is_offered_for_notebooks_only(path):
    assert ("colab.research.google.com" in (HTML / path).read_text()) == path.startswith("notebooks/")


def test_search_works_offline(open_page):
    page = open_page("search.html?q=eigenvector")
    page.wait_for_selector("#search-results li a")
    assert "small steps" in page.locator("#search-results").inner_text()


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_numbers_that_quote_the_widget_are_the_ones_it_shows(open_page, path):
    """The n-th quoted number of the page belongs to the n-th name in the notebook; those named start-TABLE are what TABLE's readout starts with."""
    page = open_page(path)
    cells = json.loads((ROOT / path).with_suffix(".ipynb").read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    names = re.findall(r"{glue:text}`([^`:]+)", text)
    shown = page.locator(".pasted-text").all_text_contents()
    assert len(names) == len(shown)
    assert not [value for value in shown if value.startswith("(")], "MyST-NB read a number with a thousands comma as a tuple"
    quoted = [(name.removeprefix("start-"), value) for name, value in zip(names, shown, strict=True) if name.startswith("start-")]
    assert quoted, "no number of the text is tied to the widget"
    for table, value in quoted:
        readout = page.locator(f'[data-readout="{table}"]').first.text_content()
        assert value.replace("\u00a0", " ") == readout.replace("\u00a0", " ")


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_every_control_changes_what_is_shown_and_reset_takes_it_back(open_page, path):
    page = open_page(path)
    widgets = page.locator(".irw").all()
    assert widgets
    for widget in widgets:
        state = lambda: widget.evaluate(  # noqa: B023
            "w => [...w.querySelectorAll('.irw-numbers, .irw-caption, .irw-charts')].map(e => e.outerHTML).join() + "
            "[...w.querySelectorAll('canvas')].map(c => c.toDataURL()).join()"
        )
        start = state()
        assert "{" not in widget.locator(".irw-caption").inner_text()
        for control in [*widget.locator("input[type=range]").all(), *widget.locator(".irw-units button").all()[:1]]:
            if control.get_attribute("type") == "range":
                control.press("Home" if control.input_value() == control.get_attribute("max") else "End")
            else:
                control.click()
            assert state() != start, control.evaluate("c => c.outerHTML")
            widget.get_by_role("button", name="Reset").click()
            assert state() == start
