// The one widget module: looks results up in tables that Python computed, adds up weighted modes at most, and draws.
// No imports: the same file runs in JupyterLab, Colab and, mounted by the book's static host, in a page without a kernel.
const SVG = "http://www.w3.org/2000/svg";
const ARRAYS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array };

function put(parent, tag, attrs = {}, text = "") {
  const e = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const k in attrs) if (attrs[k] !== undefined) e.setAttribute(k, attrs[k]);
  if (text) e.textContent = text;
  parent.appendChild(e);
  return e;
}
const digits = (v) => (Number.isFinite(v) ? String(Number(v.toPrecision(3))).replace("-", "−") : "–");
const product = (a) => a.reduce((p, v) => p * v, 1);

/** The tables of one blob, each a function of the sliders' positions: tables.name(at) is that point's slice. */
function unpack(directory, blob) {
  const bytes = blob.buffer.slice(blob.byteOffset, blob.byteOffset + blob.byteLength);
  const tables = {};
  for (const [name, t] of Object.entries(directory)) {
    const data = new ARRAYS[t.dtype](bytes, t.offset, t.count), size = product(t.shape);
    tables[name] = (at) => {
      const flat = t.over.reduce((f, [param, length]) => f * length + (length > 1 ? at[param] : 0), 0);
      return data.subarray(flat * size, (flat + 1) * size);
    };
    tables[name].shape = t.shape;
  }
  return tables;
}

// ---- views: each returns a function (tables, at) that redraws it ---------------------------------------------------

function picture(root, view, colours) {
  const fig = put(root, "figure", { class: "irw-picture" }), canvas = put(fig, "canvas", { role: "img" });
  const caption = put(fig, "figcaption", {}, view.title), scale = put(fig, "div", { class: "irw-scale", "aria-hidden": "true" });
  const range = view.map === "diverging" ? put(scale, "span") : null;
  return (tables, at) => {
    let values, limit = 255;
    const shape = tables[view.modes ? view.basis : view.frames].shape, [h, w] = shape.slice(-2);
    if (view.modes) {
      const weights = tables[view.modes](at), basis = tables[view.basis](at);
      values = new Float32Array(h * w);
      for (let k = 0; k < weights.length; k++) for (let i = 0; i < values.length; i++) values[i] += weights[k] * basis[k * h * w + i];
      limit = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    } else {
      values = tables[view.frames](at);
      if (view.scale) limit = 127;
    }
    canvas.width = w;
    canvas.height = h;
    const image = new ImageData(w, h);
    for (let i = 0; i < values.length; i++) {
      const level = view.map === "grey" ? values[i] : limit > 0 ? Math.round(127.5 + 127.5 * (values[i] / limit)) : 128;
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = view.map === "grey" ? level : colours[3 * level + c];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    if (range) {
      const text = digits(255 * (view.scale ? tables[view.scale](at)[0] : limit));
      range.textContent = `±${text}/255`;
      canvas.setAttribute("aria-label", `${view.title}; blue to red is −${text}/255 to ${text}/255`);
    } else canvas.setAttribute("aria-label", caption.textContent);
  };
}

/** Axes in a fixed frame; X and Y map data to it. Ticks come from Python. */
function frame(root, view, width, height) {
  const fig = put(root, "figure", { class: "irw-chart" }), m = { l: 44, r: 8, t: 8, b: view.xlabel ? 38 : 22 };
  const svg = put(fig, "svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  put(fig, "figcaption", {}, view.title);
  const along = (axis, from, to) => {
    const f = axis.log ? Math.log : (v) => v, [a, b] = axis.domain.map(f);
    return (v) => from + ((Math.min(Math.max(f(v), a), b) - a) / (b - a)) * (to - from);
  };
  const Y = along(view.y, height - m.b, m.t), X = view.x && along(view.x, m.l, width - m.r);
  for (const [v, text] of view.y.ticks) {
    put(svg, "svg:line", { class: "irw-grid", x1: m.l, x2: width - m.r, y1: Y(v), y2: Y(v) });
    put(svg, "svg:text", { x: m.l - 6, y: Y(v) + 4, "text-anchor": "end" }, text);
  }
  for (const [v, text] of view.x?.ticks ?? []) put(svg, "svg:text", { x: X(v), y: height - m.b + 16, "text-anchor": "middle" }, text);
  if (view.xlabel) put(svg, "svg:text", { x: (m.l + width - m.r) / 2, y: height - 4, "text-anchor": "middle" }, view.xlabel);
  return { fig, svg, X, Y, m };
}

function bars(root, view) {
  const width = 340, height = 200, { svg, Y, m } = frame(root, view, width, height);
  const step = (width - m.l - m.r) / view.labels.length, floor = Y(view.baseline);
  put(svg, "svg:line", { class: "irw-axis", x1: m.l, x2: width - m.r, y1: floor, y2: floor });
  const rects = view.labels.map((label, k) => {
    put(svg, "svg:text", { x: m.l + (k + 0.5) * step, y: height - m.b + 15, "text-anchor": "middle" }, label);
    return put(svg, "svg:rect", { x: m.l + (k + 0.18) * step, width: 0.64 * step, style: `fill:var(--irw-${view.token})`, "data-bar": k });
  });
  return (tables, at) => {
    const values = tables[view.table](at);
    rects.forEach((rect, k) => {
      const top = Y(values[k]);
      rect.setAttribute("y", Math.min(top, floor));
      rect.setAttribute("height", Math.max(1, Math.abs(top - floor)));
    });
    svg.setAttribute("aria-label", `${view.title}: ${view.labels.map((l, k) => `${l} ${digits(values[k])}`).join(", ")}`);
  };
}

function lines(root, view) {
  const width = 380, height = 200, { fig, svg, X, Y, m } = frame(root, view, width, height);
  const legend = put(fig, "div", { class: "irw-legend" });
  const cursor = view.cursor && put(svg, "svg:line", { class: "irw-cursor", y1: m.t, y2: height - m.b });
  const drawn = view.series.map((q) => {
    const entry = put(legend, "span"), key = put(entry, "svg:svg", { viewBox: "0 0 24 8", width: 24, height: 8, "aria-hidden": "true" });
    const look = { class: "irw-line", style: `stroke:var(--irw-${q.token})`, "stroke-dasharray": q.dash };
    put(key, "svg:path", { ...look, d: "M0,4H24" });
    put(entry, "span", {}, q.name);
    return { q, path: put(svg, "svg:path", { ...look, "data-series": q.name }), dot: put(svg, "svg:circle", { r: 4, style: `fill:var(--irw-${q.token})` }) };
  });
  return (tables, at, values) => {
    const x = view.xs ? tables[view.xs](at) : view.points, said = [];
    for (const { q, path, dot } of drawn) {
      const y = tables[q.table](at), whole = y.length === x.length; // between the stops of the cursor there is one point and no curve
      path.setAttribute("d", whole ? Array.from(x, (v, i) => `${i ? "L" : "M"}${X(v).toFixed(1)},${Y(y[i]).toFixed(1)}`).join("") : "");
      // the point in view: where the cursor's slider stands, or else the end of the curve
      const here = cursor ? values[view.cursor] : x[x.length - 1], now = !whole ? y[0] : cursor ? y[at[view.cursor]] : y[y.length - 1];
      dot.setAttribute("cx", X(here));
      dot.setAttribute("cy", Y(now));
      if (cursor) for (const end of ["x1", "x2"]) cursor.setAttribute(end, X(here));
      said.push(`${q.name} ${digits(now)}`);
    }
    svg.setAttribute("aria-label", `${view.title}: ${said.join(", ")}`);
  };
}

const KINDS = { picture, bars, lines };

// ---- the widget ----------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const spec = model.get("spec"), still = el.closest("[data-irw-static]") !== null;
  const grid = unpack(spec.tables, model.get("blob")), colours = grid.colours({});
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
  const redraw = spec.views.map((view) => KINDS[view.kind](view.kind === "picture" ? pictures : charts, view, colours));
  const numbers = put(root, "dl", { class: "irw-numbers" });
  const readouts = spec.readouts.map((r) => {
    const pair = put(numbers, "div");
    put(pair, "dt", {}, r.label);
    return { r, value: put(pair, "dd", { "data-readout": r.table }) };
  });
  const live = put(root, "div", { class: "irw-sr", "aria-live": "polite" });
  const foot = put(root, "div", { class: "irw-foot" });
  put(foot, "button", { type: "button" }, "Reset").addEventListener("click", () => move(spec.start));
  const link = still ? put(foot, "a", {}, "Link to this state") : null;

  function draw() {
    const at = model.get("index"), point = model.get("point"), off = point.tables !== undefined;
    const tables = off ? { ...grid, ...unpack(point.tables, model.get("point_blob")) } : grid;
    const values = {};
    for (const { p, input, shown } of rows) {
      const i = at[p.name], text = off ? point.texts[p.name] : p.texts[i];
      values[p.name] = off ? point.values[p.name] : p.values[i];
      if (+input.value !== i) input.value = i;
      shown.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }
    problem.textContent = model.get("problem");
    redraw.forEach((f) => f(tables, at, values));
    for (const { r, value } of readouts) value.textContent = digits(tables[r.table](at)[0]) + (r.unit ?? "");
    live.textContent = rows.map(({ p, shown }) => `${p.label} ${shown.textContent}`).join(", ") + ": " + readouts.map(({ r, value }) => `${r.label} ${value.textContent}`).join(", ");
    if (link) link.href = "#" + rows.map(({ p }) => `${p.name}=${encodeURIComponent(p.keys[at[p.name]])}`).join("&");
  }
  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1)), changes = {};
    for (const { p } of rows) {
      const i = p.keys.indexOf(asked.get(p.name));
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
