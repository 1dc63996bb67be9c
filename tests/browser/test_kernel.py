"""The widget module as Jupyter runs it: a model that somebody answers. The answers here are the Python widget's own."""

import base64
import json

import numpy as np
import pytest

from irlib.widgets.sweep import Param, Sweep, Table, bars, lines


def wave(rate, phase):
    data = np.array([[[r * p, r + p, r - p] for p in phase] for r in rate])
    return {
        "values": Table(data, ("rate", "phase")),
        "sum": Table(data.sum(-1), ("rate", "phase")),
        "curve": Table(np.moveaxis(data.sum(-1), 0, -1), ("phase",)),
    }


@pytest.fixture
def sweep():
    params = [Param("rate", "rate r", (1, 2, 4), open=True), Param("phase", "phase", (0, 1))]
    views = [bars("entries", "values", "abc"), lines("sum", {"sum": ("curve", "theory", None)}, "rate", "rate")]
    return Sweep("wave", "A wave", params, wave, views, {"sum": ("sum", "")}, start={"rate": 2}, caption="At {rate} and {phase} it is {sum}.")


def state(sweep, *names):
    encode = lambda v: {"base64": base64.b64encode(v).decode()} if isinstance(v, bytes) else v
    return {n: encode(getattr(sweep, n)) for n in names}


PAGE = """async ([esm, css, state]) => {
  const plain = (v) => v && v.base64 !== undefined ? new DataView(Uint8Array.from(atob(v.base64), (c) => c.charCodeAt(0)).buffer) : v;
  const listeners = {}, s = {};
  const fire = (k) => (listeners["change:" + k] || []).forEach((f) => f());
  window.saved = [];
  window.answer = (update) => { for (const k in update) s[k] = plain(update[k]); for (const k in update) fire(k); };
  const model = {
    get: (k) => s[k], set: (k, v) => { s[k] = v; fire(k); }, save_changes: () => window.saved.push(JSON.parse(JSON.stringify(s.wanted))),
    on: (events, f) => events.split(" ").forEach((e) => (listeners[e] ||= []).push(f)), off: () => {},
  };
  for (const k in state) s[k] = plain(state[k]);
  document.head.appendChild(document.createElement("style")).textContent = css;
  const module = await import(URL.createObjectURL(new Blob([esm], { type: "text/javascript" })));
  module.default.render({ model, el: document.body });
}"""


def test_a_value_between_the_stops_is_computed_by_python(browser, sweep):
    page = browser.new_page()
    errors = []
    page.on("pageerror", lambda e: errors.append(e))
    names = ("spec", "blob", "index", "wanted", "point", "point_blob", "problem")
    page.evaluate(PAGE, [sweep._esm, sweep._css, state(sweep, *names)])
    total = lambda: float(page.locator('[data-readout="sum"]').inner_text())
    assert total() == 4  # rate 2, phase 0: 0 + 2 + 2
    boxes = page.get_by_role("spinbutton")
    assert boxes.count() == 1  # only an open parameter has one
    boxes.fill("2.75")
    boxes.press("Enter")
    wanted = page.evaluate("window.saved.at(-1)")
    assert wanted == {"rate": 2.75}
    boxes.blur()
    assert page.evaluate("window.saved.length") == 1  # leaving the box does not ask again, over a slider that moved meanwhile

    sweep.wanted = wanted  # what Jupyter's comm does
    page.evaluate("u => window.answer(u)", state(sweep, "index", "point", "point_blob"))
    page.wait_for_function("document.querySelector('output').textContent === '2.75'")
    assert total() == 5.5
    assert page.locator('path[data-series="sum"]').get_attribute("d") == ""  # one point is no curve
    assert sweep.value == {"rate": 2.75, "phase": 0}

    sweep.wanted = {"phase": 0.5}
    page.evaluate("u => window.answer(u)", state(sweep, "problem"))
    assert "phase must be one of" in page.get_by_role("alert").inner_text()

    page.get_by_role("slider", name="rate r").press("Home")
    page.wait_for_function("document.querySelector('output').textContent === '1'")
    assert total() == 2
    assert page.get_by_role("alert").inner_text() == ""
    assert page.get_by_role("link").count() == 0  # a link to a kernel's state would lead nowhere
    assert not errors
    page.close()


def test_the_state_is_json_and_bytes(sweep):
    json.dumps(state(sweep, "spec", "index", "wanted", "point"))
