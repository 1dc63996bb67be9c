"""The palette, axes and still figures."""

import re

import numpy as np
import pytest

from irlib import plotting
from irlib.widgets.sweep import Sweep


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("token", plotting.PALETTE)
def test_every_colour_can_be_read_on_both_backgrounds(token):
    light, dark = plotting.PALETTE[token]
    assert contrast(light, "#ffffff") >= 4.5
    assert contrast(dark, "#14181e") >= 4.5


def test_still_figures_follow_the_page_and_speak():
    fig, ax = plotting.figure()
    ax.plot([0, 1], color=plotting.colour("ir"), label="line")
    ax.legend(title="made after the axes")
    shown = plotting.show(fig, 'A line & "words"')
    svg = shown.html[shown.html.index("<svg") :]
    assert 'aria-label="A line &amp; &quot;words&quot;"' in svg
    assert f"var(--irw-ir,{plotting.colour('ir')})" in svg
    assert plotting.INK not in svg
    fixed = set(re.findall(r"(?<!,)#[0-9a-f]{6}", svg)) - {"#000000"}
    assert not fixed, fixed
    assert not re.search(r"<text[^>]*fill: #", svg)
    assert repr(shown) == 'Figure: A line & "words"'
    other = plotting.show(plotting.figure()[0], "Another")
    ids = [set(re.findall(r' id="([^"]+)"', s.html)) for s in (shown, other)]
    assert not {i for i in ids[0] & ids[1] if re.match(r"[mp][0-9a-f]{10}", i)}  # markers and clip paths are looked up page-wide
    with pytest.raises(ValueError, match="alt"):
        plotting.show(fig, " ")


def test_axes_hold_their_values():
    for values, kw in [([0.1, 7.3], {}), ([-3, 2], {}), ([0.05, 2], {"log": True}), ([1, 9], {"tight": True}), ([4, 4], {}), ([1, float("inf")], {})]:
        axis = plotting.axis(values, **kw)
        low, high = axis["domain"]
        assert low <= min(values)
        assert high >= max(v for v in values if v < float("inf"))
        assert 2 <= len(axis["ticks"]) <= 9
        assert all(low <= t <= high and float(text.replace("−", "-")) == pytest.approx(t) for t, text in axis["ticks"])


def test_widgets_wear_the_same_palette():
    for token, (light, dark) in plotting.PALETTE.items():
        assert f"--irw-{token}:{light};" in Sweep._css
        assert f"--irw-{token}:{dark};" in Sweep._css


def test_a_wash_leaves_text_readable_on_both_grounds():
    """Blended over the page's white and its dark, each colour keeps 4.5:1 against the text of that mode."""

    def luminance(rgb):
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a, b):
        light, dark = sorted((luminance(a), luminance(b)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    washed = plotting.diverging_wash(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), 2.0)
    assert washed[2, 3] == 0
    assert washed[0, 2] > washed[0, 0]
    assert washed[4, 0] > washed[4, 2]
    for ground, text in [((1, 1, 1), (0.13, 0.16, 0.2)), ((0.07, 0.07, 0.07), (0.81, 0.84, 0.87))]:
        for colour in washed:
            blended = colour[3] * colour[:3] + (1 - colour[3]) * np.array(ground)
            assert contrast(blended, text) > 4.5


def test_what_matplotlib_draws_in_black_follows_the_page():
    fig, ax = plotting.figure(3, 2)
    fig.colorbar(ax.imshow(np.eye(2)), ax=ax)
    assert "#000000" not in plotting.show(fig, "a matrix").html
