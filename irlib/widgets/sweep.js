// The second half: sliders, links, the caption and the numbers around the views of views.js.

// ---- the widget ----------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const spec = model.get("spec"), still = el.closest("[data-irw-static]") !== null;
  const unpacked = unpack(spec.tables, model.get("blob")), grid = spec.game.v ? withGame(unpacked, spec.game) : unpacked;
  const id = "irw" + Math.random().toString(36).slice(2, 10); // anywidget may import this module once per model: no counter
  const root = put(el, "section", { class: "irw", role: "group", "aria-labelledby": id, "data-sweep": spec.name });
  put(root, "div", { class: "irw-title", id }, spec.title);
  const controls = put(root, "div", { class: "irw-controls" });
  const problem = put(root, "div", { class: "irw-problem", role: "alert" });
  const move = (changes) => {
    model.set("point", {});
    model.set("problem", "");
    model.set("index", { ...model.get("index"), ...changes });
    model.save_changes();
  };
  const rows = spec.params.map((p, k) => {
    const row = put(controls, "div", { class: "irw-row" });
    if (p.units || p.texts.length === 1) {
      put(row, "span", { class: "irw-label" }, p.label);
      return { p, shown: put(row, "output") }; // its buttons lie over a picture, or there is nothing to choose
    }
    put(row, "label", { for: `${id}-${k}` }, p.label);
    const input = put(row, "input", {
      type: "range", id: `${id}-${k}`, min: 0, max: p.texts.length - 1, step: 1, "data-param": p.name, "data-lm-suppress-shortcuts": "true",
    });
    input.addEventListener("input", () => move({ [p.name]: +input.value }));
    const shown = put(row, "output", { for: `${id}-${k}` });
    if (!still && p.open) {
      // with a kernel, a value between the slider's stops: Python computes that point
      const free = put(row, "input", { type: "number", step: "any", "aria-label": `${p.label}, any value`, placeholder: "any", "data-lm-suppress-shortcuts": "true" });
      free.addEventListener("change", () => {
        if (free.value === "") return;
        model.set("wanted", { ...model.get("wanted"), [p.name]: +free.value });
        model.save_changes();
      });
      free.addEventListener("keydown", (e) => {
        // JupyterLab would take Enter for itself; leaving the box is what makes it change, once
        if (e.key !== "Enter") return;
        e.preventDefault();
        e.stopPropagation();
        free.blur();
        free.focus();
      });
    }
    return { p, input, shown };
  });
  const pictures = put(root, "div", { class: "irw-stage" }), charts = put(root, "div", { class: "irw-charts" });
  const page = { spec, move, colours: grid.colours({}) };
  const redraw = spec.views.map((view) => KINDS[view.kind](PICTURES.includes(view.kind) ? pictures : charts, view, page));
  const caption = put(root, "p", { class: "irw-caption", "aria-live": "polite" });
  const numbers = put(root, "dl", { class: "irw-numbers" });
  const readouts = spec.readouts.map((r) => {
    const pair = put(numbers, "div");
    put(pair, "dt", {}, r.label);
    return { r, value: put(pair, "dd", { "data-readout": r.table }) };
  });
  const foot = put(root, "div", { class: "irw-foot" });
  put(foot, "button", { type: "button" }, "Reset").addEventListener("click", () => move(spec.start));
  const link = still ? put(foot, "a", {}, "Link to this state") : null;

  function draw() {
    const at = model.get("index"), point = model.get("point"), off = point.tables !== undefined;
    const tables = off ? { ...grid, ...unpack(point.tables, model.get("point_blob")) } : grid;
    const values = {}, said = {};
    for (const { p, input, shown } of rows) {
      const i = at[p.name];
      if (p.units) {
        said[p.name] = shown.textContent = `${i.toString(2).replaceAll("0", "").length} of ${p.units} units`;
        continue;
      }
      const text = (said[p.name] = off ? point.texts[p.name] : p.texts[i]);
      values[p.name] = off ? point.values[p.name] : p.values[i];
      shown.textContent = text;
      if (!input) continue;
      if (+input.value !== i) input.value = i;
      input.setAttribute("aria-valuetext", text);
    }
    problem.textContent = model.get("problem");
    redraw.forEach((f) => f(tables, at, values));
    for (const { r, value } of readouts) said[r.table] = value.textContent = digits(tables[r.table](at)[0]) + (r.unit ?? "");
    caption.textContent = spec.caption.replace(/{(\w+)}/g, (_, name) => said[name]).replaceAll(" %", "\u00a0%");
    if (link) link.href = "#" + rows.map(({ p }) => `${p.name}=${encodeURIComponent(p.units ? at[p.name] : p.keys[at[p.name]])}`).join("&");
  }
  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1)), changes = {};
    for (const { p } of rows) {
      const key = asked.get(p.name), i = !p.units ? p.keys.indexOf(key) : /^\d+$/.test(key ?? "") && +key < 2 ** p.units ? +key : -1;
      if (i >= 0) changes[p.name] = i;
    }
    if (Object.keys(changes).length === 0) return;
    move(changes);
    root.scrollIntoView();
  }
  // index and point travel together; drawing waits for both, so that no half-updated state is looked up
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => { waiting = false; draw(); });
  };
  const events = "change:index change:point change:point_blob change:problem";
  model.on(events, soon);
  draw();
  if (still) {
    fromAddress();
    window.addEventListener("hashchange", fromAddress);
  }
  root.dataset.ready = "1";
  return () => { model.off(events, soon); window.removeEventListener("hashchange", fromAddress); };
}
export default { render };
