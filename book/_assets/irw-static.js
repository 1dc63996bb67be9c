/* Static host of the book's widgets: reads the widget state that MyST-NB writes into the page and mounts each view's own module, without
   kernel, require.js or network. A widget module (anywidget's format) sees the same `model` as in Jupyter, only nobody answers it. */
(() => {
  "use strict";
  const MIME = "application/vnd.jupyter.widget-";
  const modules = new Map(), models = new Map(), styles = new Set();
  document.documentElement.classList.add("irw-js");

  class Model {
    constructor(state) { this.state = state; this.listeners = {}; }
    get(key) { return this.state[key]; }
    set(key, value) {
      for (const [k, v] of Object.entries(typeof key === "object" ? key : { [key]: value })) {
        this.state[k] = v;
        this.emit("change:" + k, this, v);
      }
    }
    save_changes() {}
    send() {}
    on(events, f) { for (const e of events.split(/\s+/)) (this.listeners[e] ||= []).push(f); }
    off(events, f) { for (const e of events.split(/\s+/)) this.listeners[e] = (this.listeners[e] || []).filter((g) => g !== f); }
    emit(event, ...args) { for (const f of [...(this.listeners[event] || [])]) f(...args); }
  }

  function withBuffers({ state, buffers }) {
    for (const { path, data } of buffers || []) {
      const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
      path.slice(0, -1).reduce((o, k) => o[k], state)[path.at(-1)] = new DataView(bytes.buffer);
    }
    return state;
  }
  function imported(source) {
    if (!modules.has(source)) {
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      modules.set(source, import(url).finally(() => URL.revokeObjectURL(url)));
    }
    return modules.get(source);
  }
  function style(css) {
    if (!css || styles.has(css)) return;
    styles.add(css);
    document.head.appendChild(Object.assign(document.createElement("style"), { textContent: css }));
  }
  async function mount(script, states) {
    const id = JSON.parse(script.textContent).model_id, raw = states[id];
    const el = document.createElement("div");
    el.className = "irw-host";
    el.dataset.irwStatic = "";
    script.after(el);
    if (raw?.model_module !== "anywidget") {
      el.textContent = "This output needs a live kernel: open the notebook in Jupyter or Colab.";
      return;
    }
    if (!models.has(id)) models.set(id, new Model(withBuffers(raw)));
    const model = models.get(id), module = await imported(model.get("_esm"));
    style(model.get("_css"));
    await module.default.render({ model, el });
    // what a reader without scripts is shown is also what a printer gets
    const fallbacks = [...(el.closest(".cell_output")?.querySelectorAll("noscript.irw-fallback") ?? [])];
    const next = fallbacks.find((n) => el.compareDocumentPosition(n) & Node.DOCUMENT_POSITION_FOLLOWING); // a cell may show several widgets
    if (next) el.after(Object.assign(document.createElement("div"), { className: "irw-print", innerHTML: next.textContent }));
  }
  /* A table of class irw-sortable: the buttons in its head sort its rows, by the cells' data-value where there is one. */
  function sortable(table) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    const key = (row, k) => row.cells[k].dataset.value ?? row.cells[k].textContent;
    const before = (p, q) => (Number.isNaN(p - q) ? p.localeCompare(q, "en") : p - q);
    heads.forEach((head, k) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        body.append(...[...body.rows].sort((p, q) => way * before(key(p, k), key(q, k))));
      });
    });
  }
  async function start() {
    document.querySelectorAll("table.irw-sortable").forEach(sortable);
    const states = {};
    for (const s of document.querySelectorAll(`script[type="${MIME}state+json"]`)) Object.assign(states, JSON.parse(s.textContent).state);
    const views = [...document.querySelectorAll(`script[type="${MIME}view+json"]`)];
    await Promise.all(views.map((view) => mount(view, states).catch((error) => {
      view.nextElementSibling.textContent = "This widget failed to start: " + error;
      console.error(error);
    })));
    document.documentElement.dataset.irw = String(views.length); // all widgets are up
  }
  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", start) : start();
})();
