"use strict";
const report = JSON.parse(document.getElementById("report").textContent);
const byId = (id) => document.getElementById(id);
const columns = new Map(report.columns.map((column) => [column.name, column]));
const methods = report.columns.filter((column) => column.name !== "lq" && column.name !== "hq");
const metrics = new Map(report.metrics.map((metric) => [metric.name, metric]));
const hidden = new Set();
const state = { sort: "", of: "", order: "worst", show: "all", filter: "", face: "" };
const defaults = {};
const shown = { faces: [] };  // what the list holds now, in its order

function element(tag, properties = {}, ...children) {
  const { dataset = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/* Pictures lie in one script element a face, and are read when they come near the screen. */
const parsed = new Map();
function picture(face, column) {
  if (!parsed.has(face.number)) {
    const holder = byId(`pictures-${face.number}`);
    parsed.set(face.number, holder ? JSON.parse(holder.textContent) : {});
  }
  const data = parsed.get(face.number)[column];
  return data ? `data:image/webp;base64,${data}` : null;
}
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    for (const image of entry.target.querySelectorAll("img[data-column]")) {
      if (!image.hasAttribute("src")) image.src = picture(report.faces[entry.target.dataset.number], image.dataset.column);
    }
    watcher.unobserve(entry.target);
  }
}, { rootMargin: "800px" });

/* JSON has no infinity: PSNR of equal pictures comes as text. */
function number(value) {
  if (value === undefined || value === null) return NaN;
  if (typeof value === "string") return value.startsWith("-") ? -Infinity : value.startsWith("inf") ? Infinity : NaN;
  return value;
}
function valueOf(face, column, sort) {
  if (sort === "seconds") return number(face.seconds[column]);
  return number((face.values[column] || {})[sort]);
}
function format(value, sort, sign = false) {
  if (Number.isNaN(value)) return "";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  const digits = sort === "seconds" ? (value < 0.1 ? 4 : value < 10 ? 3 : 1) : metrics.get(sort).digits;
  return (sign && value > 0 ? "+" : "") + value.toFixed(digits).replace("-", "−");
}
function higherIsBetter(sort) {
  return sort !== "seconds" && metrics.get(sort).better === "higher";
}

/* How bad a face is, for the order chosen: larger is worse; NaN where there is nothing to tell. */
function badness(face) {
  const sign = higherIsBetter(state.sort) ? -1 : 1;
  if (state.of === "any") {
    const found = methods.map((m) => sign * valueOf(face, m.name, state.sort)).filter((value) => !Number.isNaN(value));
    return found.length ? Math.max(...found) : NaN;
  }
  const [kind, name] = [state.of.slice(0, 1), state.of.slice(1)];
  const value = valueOf(face, name, state.sort);
  return sign * (kind === "-" ? value - valueOf(face, report.first, state.sort) : value);
}
function failed(face) {
  if (state.of === "any") return Object.keys(face.errors).length > 0;
  return state.of.slice(1) in face.errors;
}
function order(faces) {
  if (state.sort === "name") {
    const sorted = [...faces].sort((a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }));
    return state.order === "worst" ? sorted : sorted.reverse();
  }
  const ranked = faces.map((face) => ({ face, bad: badness(face), failed: failed(face) }));
  const direction = state.order === "worst" ? 1 : -1;
  // A result that failed is the worst there is; where there is no value at all, the face comes last in both orders.
  const group = (r) => (r.failed ? (direction > 0 ? 0 : 2) : Number.isNaN(r.bad) ? 3 : 1);
  const compare = (a, b) => (a.bad === b.bad ? 0 : direction * (b.bad > a.bad ? 1 : -1));
  ranked.sort((a, b) => group(a) - group(b) || (group(a) === 1 ? compare(a, b) : 0) || a.face.number - b.face.number);
  return ranked.map((r) => r.face);
}
function selected(face) {
  const text = state.filter.trim().toLowerCase();
  if (text && !face.id.toLowerCase().includes(text) && !face.input.toLowerCase().includes(text)) return false;
  if (state.show === "errors") return Object.keys(face.errors).length + Object.keys(face.metric_errors).length > 0;
  if (state.show === "all" || state.sort === "name") return true;
  const [kind, name] = [state.show.slice(0, 1), state.show.slice(1)];
  const gain = valueOf(face, name, state.sort) - valueOf(face, report.first, state.sort);
  const better = higherIsBetter(state.sort) ? gain > 0 : gain < 0;
  return kind === ">" ? better : !better && gain !== 0 && !Number.isNaN(gain);
}

function best(face) {
  if (state.sort === "name") return NaN;
  const found = methods.map((m) => valueOf(face, m.name, state.sort)).filter((value) => !Number.isNaN(value));
  if (found.length < 2) return NaN;
  return higherIsBetter(state.sort) ? Math.max(...found) : Math.min(...found);
}
function figure(face, column, top) {
  const title = columns.get(column).title;
  const value = state.sort === "name" ? NaN : valueOf(face, column, state.sort);
  const text = format(value, state.sort);
  const caption = element("figcaption", {}, element("span", { className: "name", textContent: title, title }));
  const isBest = value === top && column !== "lq" && column !== "hq";
  if (text) caption.append(element("span", { className: isBest ? "value best" : "value", textContent: text }));
  let body;
  if (column in face.errors) {
    body = element("div", { className: "failed", tabIndex: 0 }, element("strong", { textContent: "failed: " }), face.errors[column]);
  } else if (face.columns.includes(column)) {
    const image = element("img", { alt: "", dataset: { column } });
    body = element("button", { type: "button", className: "picture", dataset: { column } }, image);
    body.setAttribute("aria-label", `${face.id}, ${title}${text ? `, ${text}` : ""}: open beside another picture`);
  } else {
    const reason = columns.get(column).unavailable;
    body = element("div", { className: "none", textContent: reason ? "not run" : "none", title: reason || "" });
  }
  return element("figure", {}, body, caption);
}
function row(face, rank) {
  const top = best(face);
  const where = face.of > 1 ? ` face ${face.index + 1} of ${face.of}` : "";
  const heading = element("h3", {}, `${rank}. ${face.input} `, element("span", { textContent: where }));
  if (face.error) return element("li", { className: "face", dataset: { number: face.number, id: face.id } }, heading, element("p", { className: "note", textContent: face.error }));
  const figures = report.columns.filter((column) => !hidden.has(column.name)).map((column) => figure(face, column.name, top));
  const made = element("li", { className: "face", dataset: { number: face.number, id: face.id } }, heading, element("div", { className: "row" }, ...figures));
  watcher.observe(made);
  return made;
}
function render() {
  shown.faces = order(report.faces.filter(selected));
  watcher.disconnect();
  byId("faces").replaceChildren(...shown.faces.map((face, index) => row(face, index + 1)));
  if (!shown.faces.length) byId("faces").append(element("li", { className: "empty", textContent: "No face fits this selection." }));
  byId("count").textContent = `${shown.faces.length} of ${report.faces.length} faces`;
  const named = state.sort === "name";
  const text = state.order === "worst" ? (named ? "A to Z" : "worst first") : named ? "Z to A" : "best first";
  byId("order").textContent = text;
  byId("order").setAttribute("aria-pressed", String(state.order === "best"));
  byId("of").disabled = named;
  writeHash();
}

/* The address keeps the order and the face that is open, so that a view can be passed on. */
function writeHash() {
  const kept = Object.entries(state).filter(([key, value]) => value !== defaults[key]);
  const hash = new URLSearchParams(kept).toString();
  history.replaceState(null, "", hash ? `#${hash}` : "#");
}
function readHash() {
  for (const [key, value] of new URLSearchParams(location.hash.slice(1))) {
    if (key in state) state[key] = value;
  }
  for (const key of ["sort", "of", "show"]) {
    if (![...byId(key).options].some((option) => option.value === state[key])) state[key] = defaults[key];
    byId(key).value = state[key];
  }
  if (state.order !== "best") state.order = "worst";
  byId("filter").value = state.filter;
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, textContent]) => element("option", { value, textContent })));
}
/* The width at which a row fits the window, if that leaves enough to see. */
function fittingWidth() {
  const space = byId("faces").clientWidth - 8;
  const gaps = 10 * (report.columns.length - 1);
  return Math.max(Math.min(150, space * 0.45), Math.min(288, Math.floor((space - gaps) / report.columns.length)));
}
function setUp() {
  const images = report.metrics.filter((metric) => metric.kind === "image");
  const timed = report.faces.some((face) => Object.keys(face.seconds).length);
  fill(byId("sort"), [...images.map((m) => [m.name, m.title]), ...(timed ? [["seconds", "seconds"]] : []), ["name", "name"]]);
  const others = methods.filter((method) => method.name !== report.first);
  fill(byId("of"), [
    ...methods.map((m) => [`=${m.name}`, m.title]),
    ...others.map((m) => [`-${m.name}`, `${m.title} against ${report.first}`]),
    ...(methods.length > 1 ? [["any", "any method"]] : []),
  ]);
  fill(byId("show"), [
    ["all", "all faces"], ["errors", "failures"],
    ...others.flatMap((m) => [[`>${m.name}`, `${m.title} beats ${report.first}`], [`<${m.name}`, `${m.title} loses to ${report.first}`]]),
  ]);
  const boxes = report.columns.map((column) => {
    const box = element("input", { type: "checkbox", checked: true });
    box.addEventListener("change", () => {
      if (box.checked) hidden.delete(column.name); else hidden.add(column.name);
      render();
    });
    return element("label", {}, box, column.title);
  });
  byId("columns").lastElementChild.append(...boxes);
  document.addEventListener("click", (event) => {
    if (!byId("columns").contains(event.target)) byId("columns").open = false;
  });
  for (const key of ["sort", "of", "show"]) {
    byId(key).addEventListener("change", () => { state[key] = byId(key).value; render(); });
  }
  byId("filter").addEventListener("input", () => { state.filter = byId("filter").value; render(); });
  byId("order").addEventListener("click", () => { state.order = state.order === "worst" ? "best" : "worst"; render(); });
  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  const width = byId("width");
  const resize = () => document.documentElement.style.setProperty("--width", `${width.value}px`);
  width.value = fittingWidth();
  resize();
  width.addEventListener("input", resize);
  byId("faces").addEventListener("click", (event) => {
    const button = event.target.closest("button.picture");
    if (button) openViewer(report.faces[button.closest(".face").dataset.number], button.dataset.column);
  });
  byId("bar").hidden = false;
}

function start() {
  report.faces.forEach((face, index) => { face.number = index; });
  setUp();
  Object.assign(defaults, state, { sort: report.sort, of: `=${report.first}` });
  Object.assign(state, defaults);
  readHash();
  const open = report.faces.find((face) => face.id === state.face && face.columns.length);
  if (!open) state.face = "";
  render();
  if (open) openViewer(open, report.first);
}
