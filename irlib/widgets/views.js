// The first half of the one widget module (sweep.js follows): tables that Python computed, and how they are drawn. What is shown is looked up; at
// most weighted modes, an image and its perturbation, or neighbouring coalitions are added up.
// No imports: the same text runs in JupyterLab, Colab and, mounted by the book's static host, in a page without a kernel.
const SVG = "http://www.w3.org/2000/svg";
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array };

function put(parent, tag, attrs = {}, text = "") {
  const e = tag.startsWith("svg:") ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const k in attrs) if (attrs[k] !== undefined) e.setAttribute(k, attrs[k]);
  if (text) e.textContent = text;
  parent.appendChild(e);
  return e;
}
const digits = (v) => (Number.isFinite(v) ? String(Number(v.toPrecision(3))).replaceAll("-", "−") : "–");
const product = (a) => a.reduce((p, v) => p * v, 1);
/** The number whose IEEE half-precision bits are h. */
const half = (h) => {
  const e = (h >> 10) & 31, f = h & 1023, size = e === 0 ? f * 2 ** -24 : e === 31 ? (f ? NaN : Infinity) : (1 + f / 1024) * 2 ** (e - 15);
  return h >> 15 ? -size : size;
};

/** The tables of one blob, each a function of the sliders' positions: tables.name(at) is that point's slice. */
function unpack(directory, blob) {
  const bytes = blob.buffer.slice(blob.byteOffset, blob.byteOffset + blob.byteLength);
  const tables = {};
  for (const [name, t] of Object.entries(directory)) {
    const raw = new ARRAYS[t.dtype](bytes, t.offset, t.count), size = product(t.shape);
    const data = t.dtype === "float16" ? Float32Array.from(raw, half) : raw;
    tables[name] = (at) => {
      const flat = t.over.reduce((f, [param, length]) => f * length + (length > 1 ? at[param] : 0), 0);
      return data.subarray(flat * size, (flat + 1) * size);
    };
    tables[name].shape = t.shape;
  }
  return tables;
}

/** What follows from v(S) at and around the coalition in view: irlib.widgets.tables.coalition_tables and joint_effect. */
function withGame(tables, { v, pair, param, n }) {
  const value = (at, S) => tables[v]({ ...at, [param]: S })[0];
  tables.inside = (at) => [value(at, at[param])];
  tables.marginals = (at) => Float32Array.from({ length: n }, (_, a) => value(at, at[param] | (1 << a)) - value(at, at[param] & ~(1 << a)));
  if (pair) tables.joint = (at) => {
    const [a, b] = Array.from(tables[pair](at), (u) => 1 << u), rest = at[param] & ~a & ~b;
    return [value(at, rest | a | b) - value(at, rest | a) - value(at, rest | b) + value(at, rest)];
  };
  return tables;
}

// ---- views: each is made with (root, view, page) and returns a function (tables, at) that redraws it; page has the colours and move ------------

function picture(root, view, { colours }) {
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
      const end = view.scale ? tables[view.scale](at)[0] : limit, text = view.pixels === false ? digits(end) : `${digits(255 * end)}/255`;
      range.textContent = `±${text}`;
      canvas.setAttribute("aria-label", `${view.title}; blue to red is −${text} to ${text}`);
    } else canvas.setAttribute("aria-label", caption.textContent);
  };
}

/** Ticks that hold lo … hi, about five of them: where Python has not laid out the axis because it fits what is shown. */
function fitted(lo, hi) {
  if (!(hi > lo)) [lo, hi] = [lo - Math.abs(lo || 1), hi + Math.abs(hi || 1)];
  const size = 10 ** Math.floor(Math.log10((hi - lo) / 5)), step = [1, 2, 2.5, 5, 10].find((k) => k * size >= (hi - lo) / 5) * size;
  const ticks = [], first = Math.floor(lo / step + 1e-9), last = Math.ceil(hi / step - 1e-9);
  for (let k = first; k <= last; k++) ticks.push([k * step, String(Number((k * step).toPrecision(6))).replaceAll("-", "−")]);
  return { domain: [first * step, last * step], ticks };
}

/** An empty chart; scale(y, x) draws the axes and returns the maps from data to it. */
function frame(root, view, width, height, foot = view.xlabel ? 38 : 22) {
  const fig = put(root, "figure", { class: "irw-chart" }), m = { l: 48, r: 8, t: view.ylabel ? 20 : 8, b: foot };
  const svg = put(fig, "svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img" }), axes = put(svg, "svg:g");
  put(fig, "figcaption", {}, view.title);
  const along = (axis, from, to) => {
    const f = axis.log ? Math.log : (v) => v, [a, b] = axis.domain.map(f);
    return (v) => from + ((Math.min(Math.max(f(v), a), b) - a) / (b - a)) * (to - from);
  };
  const scale = (y, x) => {
    axes.replaceChildren();
    const Y = along(y, height - m.b, m.t), X = x && along(x, m.l, width - m.r);
    for (const [v, text] of y.ticks) {
      put(axes, "svg:line", { class: "irw-grid", x1: m.l, x2: width - m.r, y1: Y(v), y2: Y(v) });
      put(axes, "svg:text", { x: m.l - 6, y: Y(v) + 4, "text-anchor": "end" }, text);
    }
    for (const [v, text] of x?.ticks ?? []) put(axes, "svg:text", { x: X(v), y: height - m.b + 16, "text-anchor": "middle" }, text);
    if (view.xlabel) put(axes, "svg:text", { x: (m.l + width - m.r) / 2, y: height - 4, "text-anchor": "middle" }, view.xlabel);
    if (view.ylabel) put(axes, "svg:text", { x: 2, y: 11 }, view.ylabel);
    return { X, Y };
  };
  return { fig, svg, m, scale };
}

function bars(root, view) {
  const rising = view.kind === "waterfall", width = 340, longest = Math.max(...view.labels.map((l) => l.length)), room = 284 / view.labels.length;
  const slanted = !rising && longest * 7 > room && longest > 2, foot = slanted ? 14 + longest * 5 : 22, height = 178 + foot;
  const { svg, m, scale } = frame(root, view, width, height, foot);
  const step = (width - m.l - m.r) / view.labels.length, every = slanted ? 1 : Math.ceil((Math.max(longest, 2) * 7) / step);
  const last = view.labels.length - 1, shown = (k) => (k % every === 0 && (last - k >= every || !rising)) || (rising && k === last);
  let { Y } = rising ? {} : scale(view.y);
  const zero = put(svg, "svg:line", { class: "irw-axis", x1: m.l, x2: width - m.r });
  const rects = view.labels.map((label, k) => {
    const x = m.l + (k + 0.5) * step, y = height - m.b + 15;
    if (shown(k)) put(svg, "svg:text", slanted ? { "text-anchor": "end", transform: `translate(${x + 4},${y - 3}) rotate(-45)` } : { x, y, "text-anchor": "middle" }, label);
    const token = rising && k === last ? "measured" : view.token;
    return put(svg, "svg:rect", { x: m.l + (k + 0.18) * step, width: 0.64 * step, style: `fill:var(--irw-${token})`, "data-bar": k });
  });
  return (tables, at) => {
    const values = Array.from(tables[view.table](at)), from = values.map(() => view.baseline ?? 0), to = [...values];
    if (rising) {
      values.forEach((v, k) => { from[k] = k ? to[k - 1] : 0; to[k] = from[k] + v; });
      from.push(0);
      to.push(to.at(-1));
      values.push(to.at(-1));
      ({ Y } = scale(fitted(Math.min(0, ...to), Math.max(0, ...to))));
    }
    for (const end of ["y1", "y2"]) zero.setAttribute(end, Y(view.baseline ?? 0));
    rects.forEach((rect, k) => {
      rect.setAttribute("visibility", Number.isFinite(values[k]) ? "visible" : "hidden"); // what was not measured has no bar
      const [a, b] = [Y(from[k]), Y(Number.isFinite(to[k]) ? to[k] : from[k])];
      rect.setAttribute("y", Math.min(a, b));
      rect.setAttribute("height", Math.max(1, Math.abs(a - b)));
      if (rising) rect.setAttribute("fill-opacity", values[k] < 0 ? 0.45 : 1);
    });
    svg.setAttribute("aria-label", `${view.title}: ${view.labels.map((l, k) => `${l} ${digits(values[k])}`).join(", ")}`);
  };
}

function heat(root, view, { colours }) {
  const left = 10 + 7.2 * Math.max(...view.rows.map((r) => r.length)), cell = Math.min(22, 380 / view.columns.length), tall = Math.max(cell, 15);
  const longest = Math.max(...view.columns.map((c) => c.length)), slanted = longest * 6.6 > cell, foot = slanted ? 15 + longest * 4.8 : 18;
  const width = left + cell * view.columns.length + (slanted ? 6 : 4), height = tall * view.rows.length + foot;
  const fig = put(root, "figure", { class: "irw-chart" });
  const svg = put(fig, "svg:svg", { viewBox: `0 0 ${width} ${height}`, role: "img", style: `max-width:${1.3 * width}px` }); // few cells stay small
  const range = put(fig, "div", { class: "irw-scale", "aria-hidden": "true" });
  put(range, "span", {}, view.diverging ? `±${digits(view.limit)}` : `0 to ${digits(view.limit)}`);
  put(fig, "figcaption", {}, view.title);
  view.rows.forEach((r, i) => put(svg, "svg:text", { x: left - 5, y: (i + 0.5) * tall + 4, "text-anchor": "end" }, r));
  view.columns.forEach((c, j) => {
    const x = left + (j + 0.5) * cell, y = height - foot + 13;
    put(svg, "svg:text", slanted ? { "text-anchor": "end", transform: `translate(${x + 4},${y - 3}) rotate(-45)` } : { x, y, "text-anchor": "middle" }, c);
  });
  const rects = view.rows.flatMap((r, i) => view.columns.map((c, j) =>
    put(svg, "svg:rect", { class: "irw-cell", x: left + j * cell, y: i * tall, width: cell, height: tall, "data-cell": `${i},${j}` })));
  const titles = rects.map((rect) => put(rect, "svg:title"));
  return (tables, at) => {
    const values = tables[view.table](at), said = [], w = view.columns.length;
    rects.forEach((rect, k) => {
      const share = view.limit > 0 ? values[k] / view.limit : 0, level = 3 * Math.round(127.5 + 127.5 * share);
      rect.setAttribute("style", view.diverging ? `fill:rgb(${colours.slice(level, level + 3).join(",")})` : `fill:var(--irw-measured);fill-opacity:${share.toFixed(3)}`);
      titles[k].textContent = `${view.rows[Math.floor(k / w)]}, ${view.columns[k % w]}: ${digits(values[k])}`;
    });
    view.rows.forEach((r, i) => {
      const row = values.slice(i * w, (i + 1) * w), top = row.indexOf(Math.max(...row));
      said.push(`${r} ${view.columns[top]} ${digits(row[top])}`);
    });
    svg.setAttribute("aria-label", `${view.title}; largest of each row: ${said.join(", ")}`);
  };
}

function scatter(root, view) {
  const width = 380, height = 240, { svg, scale } = frame(root, view, width, height);
  const drawn = put(svg, "svg:g"), line = view.line && put(svg, "svg:path", { class: "irw-line", style: "stroke:var(--irw-theory)", "data-series": "line" });
  return (tables, at) => {
    const flat = tables[view.table](at), points = [];
    for (let k = 0; k < flat.length; k += 3) if (Number.isFinite(flat[k]) && Number.isFinite(flat[k + 1])) points.push([...flat.slice(k, k + 3), k / 3]);
    const range = (c) => fitted(Math.min(...points.map((p) => p[c])), Math.max(...points.map((p) => p[c]))), { X, Y } = scale(range(1), range(0));
    drawn.replaceChildren();
    points.forEach(([x, y, kept, k]) => {
      const name = view.names[k], colour = view.tokens[k] ? { style: `--irw-dot:var(--irw-${view.tokens[k]})` } : {};
      const dot = put(drawn, "svg:circle", { cx: X(x), cy: Y(y), r: 4.5, class: "irw-dot", "data-kept": kept, ...colour });
      put(dot, "svg:title", {}, `${name ? `${name}: ` : ""}${digits(x)}, ${digits(y)}${kept || name ? "" : ", left out"}`);
      const left = X(x) > width / 2;
      if (name && kept) put(drawn, "svg:text", { x: X(x) + (left ? -8 : 8), y: Y(y) + 4, "text-anchor": left ? "end" : "start" }, name);
    });
    if (line) {
      const [x0, y0, x1, y1] = tables[view.line](at);
      line.setAttribute("d", [x0, y0, x1, y1].every(Number.isFinite) ? `M${X(x0)},${Y(y0)}L${X(x1)},${Y(y1)}` : "");
    }
    const named = points.map(([x, y, , k]) => `${view.names[k]} ${digits(x)}, ${digits(y)}`).join("; "), out = points.filter((p) => !p[2]).length;
    svg.setAttribute("aria-label", `${view.title}: ${view.names.length ? named : `${points.length} points, ${out} of them left out`}`);
  };
}

/** A perturbation on the units of a coalition, with a button over each unit. */
function cells(root, view, { colours, move, spec }) {
  const units = spec.params.find((p) => p.name === view.coalition).units, side = Math.sqrt(units);
  const fig = put(root, "figure", { class: "irw-picture irw-cells" }), stack = put(fig, "div", { class: "irw-stack" });
  const canvas = put(stack, "canvas", { role: "img" }), over = put(stack, "div", { class: "irw-units", style: `--irw-side:${side}`, role: "group", "aria-label": view.title });
  put(fig, "figcaption", {}, view.title);
  let shown = 0;
  const buttons = Array.from({ length: units }, (_, a) => {
    const b = put(over, "button", { type: "button", "data-unit": a, tabindex: a ? -1 : 0, "data-lm-suppress-shortcuts": "true" });
    b.addEventListener("click", () => move({ [view.coalition]: shown ^ (1 << a) }));
    b.addEventListener("keydown", (e) => {
      const to = a + ({ ArrowLeft: -1, ArrowRight: 1, ArrowUp: -side, ArrowDown: side }[e.key] ?? NaN);
      if (!(to >= 0 && to < units)) return;
      e.preventDefault();
      b.tabIndex = -1;
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    });
    return b;
  });
  const all = put(fig, "div", { class: "irw-all" });
  for (const [text, S] of [["All", 2 ** units - 1], ["None", 0]]) put(all, "button", { type: "button" }, text).addEventListener("click", () => move({ [view.coalition]: S }));
  return (tables, at) => {
    shown = at[view.coalition];
    const delta = tables[view.frames](at), [h, w] = tables[view.frames].shape.slice(-2), marked = spec.game.pair ? Array.from(tables[spec.game.pair](at)) : [];
    const base = view.image && tables[view.image](at), scale = (255 / 127) * tables[view.scale](at)[0];
    canvas.width = w;
    canvas.height = h;
    const image = new ImageData(w, h);
    for (let i = 0; i < delta.length; i++) {
      const unit = Math.floor((Math.floor(i / w) * side) / h) * side + Math.floor(((i % w) * side) / w), d = (shown >> unit) & 1 ? delta[i] : 0;
      const level = base ? Math.min(255, Math.max(0, Math.round(base[i] + scale * d))) : Math.round(127.5 + (127.5 / 127) * d);
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = base ? level : colours[3 * level + c];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    canvas.setAttribute("aria-label", `${view.title}; ${buttons.filter((_, a) => (shown >> a) & 1).length} of ${units} units`);
    buttons.forEach((b, a) => {
      b.setAttribute("aria-pressed", (shown >> a) & 1 ? "true" : "false");
      b.classList.toggle("irw-marked", marked.includes(a));
      b.setAttribute("aria-label", `unit ${a}, row ${Math.floor(a / side) + 1}, column ${(a % side) + 1}${marked.includes(a) ? ", of the pair" : ""}`);
    });
  };
}

function lines(root, view) {
  const width = 380, height = 200, { fig, svg, m, scale } = frame(root, view, width, height), { X, Y } = scale(view.y, view.x);
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

const KINDS = { picture, cells, bars, waterfall: bars, heat, lines, scatter };
const PICTURES = ["picture", "cells"];

