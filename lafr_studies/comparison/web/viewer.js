/* One face large: two pictures, one over the other, with a line between them that moves. */
const viewer = { face: null, left: "lq", right: "", split: 50, zoom: 1, x: 0, y: 0, pointers: new Map(), drag: "" };
const MAX_ZOOM = 16;

function openViewer(face, column) {
  // What was clicked goes to the right, the input to the left.
  if (face.columns.includes(column) && column !== "lq") viewer.right = column;
  if (!face.columns.includes(viewer.right)) viewer.right = face.columns.find((name) => name !== "lq") || face.columns[0];
  if (!face.columns.includes(viewer.left) || viewer.left === viewer.right) {
    viewer.left = face.columns.find((name) => name !== viewer.right) || viewer.right;
  }
  if (!byId("viewer").open) {
    Object.assign(viewer, { split: 50, zoom: 1, x: 0, y: 0 });
    byId("viewer").showModal();
    byId("split").focus();
  }
  showFace(face);
}
function showFace(face) {
  viewer.face = face;
  state.face = face.id;
  writeHash();
  const options = face.columns.map((name) => [name, columns.get(name).title]);
  for (const [side, other] of [["left", "right"], ["right", "left"]]) {
    if (!face.columns.includes(viewer[side])) {
      viewer[side] = face.columns.find((name) => name !== viewer[other]) || viewer[other];
    }
    fill(byId(side), options);
  }
  const place = shown.faces.indexOf(face);
  byId("viewer-name").textContent = face.input + (face.of > 1 ? `, face ${face.index + 1} of ${face.of}` : "");
  byId("previous").disabled = !neighbour(-1);
  byId("next").disabled = !neighbour(1);
  byId("viewer-name").title = `${place + 1} of ${shown.faces.length}`;
  byId("viewer-values").replaceChildren(valueTable(face));
  showPictures();
}
function showPictures() {
  byId("left").value = viewer.left;
  byId("right").value = viewer.right;
  for (const [id, column] of [["above", viewer.left], ["below", viewer.right]]) {
    byId(id).src = picture(viewer.face, column) || "";
    byId(id).alt = `${viewer.face.id}, ${columns.get(column).title}`;
  }
  place();
}
/* Keep the pictures over the stage, and the line where it was told to be. */
function place() {
  const side = byId("stage").clientWidth;
  viewer.zoom = Math.min(MAX_ZOOM, Math.max(1, viewer.zoom));
  const least = side * (1 - viewer.zoom);
  viewer.x = Math.min(0, Math.max(least, viewer.x));
  viewer.y = Math.min(0, Math.max(least, viewer.y));
  const transform = `translate(${viewer.x}px, ${viewer.y}px) scale(${viewer.zoom})`;
  const cut = ((viewer.split / 100) * side - viewer.x) / (viewer.zoom * side) * 100;  // in the picture's own per cent
  for (const id of ["above", "below"]) byId(id).style.transform = transform;
  byId("above").style.clipPath = `inset(0 ${100 - Math.min(100, Math.max(0, cut))}% 0 0)`;
  byId("divider").style.left = `${viewer.split}%`;
  byId("split").value = viewer.split;
  byId("zoom").textContent = `${viewer.zoom.toFixed(viewer.zoom < 10 ? 1 : 0)}×`;
  byId("stage").classList.toggle("zoomed", viewer.zoom > 1);
  byId("pictures").classList.toggle("pixels", viewer.zoom * side > 3 * report.size);
}
/* Enlarge by a factor about a point of the stage, which stays where it is. */
function zoomBy(factor, x, y) {
  const side = byId("stage").clientWidth;
  const [atX, atY] = [x ?? side / 2, y ?? side / 2];
  const zoom = Math.min(MAX_ZOOM, Math.max(1, viewer.zoom * factor));
  viewer.x = atX - (atX - viewer.x) * (zoom / viewer.zoom);
  viewer.y = atY - (atY - viewer.y) * (zoom / viewer.zoom);
  viewer.zoom = zoom;
  place();
}
function neighbour(step) {
  let at = shown.faces.indexOf(viewer.face);
  if (at < 0) return null;
  for (at += step; at >= 0 && at < shown.faces.length; at += step) {
    if (shown.faces[at].columns.length) return shown.faces[at];
  }
  return null;
}
function go(step) {
  const face = neighbour(step);
  if (face) showFace(face);
}
function swap() {
  [viewer.left, viewer.right] = [viewer.right, viewer.left];
  showPictures();
}

function valueTable(face) {
  const names = face.columns.filter((name) => face.values[name]);
  const head = element("tr", {}, element("th", { textContent: "" }), ...names.map((name) => element("th", { scope: "col", textContent: columns.get(name).title })));
  const rows = report.metrics.filter((metric) => metric.kind === "image").map((metric) => {
    const cells = names.map((name) => {
      const error = (face.metric_errors[name] || {})[metric.name];
      const text = format(valueOf(face, name, metric.name), metric.name);
      return element("td", { textContent: text || (error ? "failed" : "–"), title: error || "" });
    });
    const arrow = metric.better === "higher" ? "↑" : "↓";
    return element("tr", {}, element("th", { scope: "row", textContent: `${metric.title} ${arrow}` }), ...cells);
  });
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}

function point(event) {
  const box = byId("stage").getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}
function spread() {
  const [a, b] = [...viewer.pointers.values()];
  return { distance: Math.hypot(a.x - b.x, a.y - b.y), x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
}
function moveLine(x) {
  viewer.split = Math.min(100, Math.max(0, (x / byId("stage").clientWidth) * 100));
  place();
}
function setUpViewer() {
  const [dialog, stage] = [byId("viewer"), byId("stage")];
  stage.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    const at = point(event);
    stage.setPointerCapture(event.pointerId);
    viewer.pointers.set(event.pointerId, at);
    const nearLine = Math.abs(at.x - (viewer.split / 100) * stage.clientWidth) < 24;
    viewer.drag = viewer.pointers.size > 1 ? "pinch" : viewer.zoom === 1 || nearLine ? "line" : "move";
    if (viewer.drag === "line") moveLine(at.x);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = viewer.pointers.get(event.pointerId);
    if (!before) return;
    const at = point(event);
    if (viewer.drag === "pinch" && viewer.pointers.size === 2) {
      const old = spread();
      viewer.pointers.set(event.pointerId, at);
      const now = spread();
      viewer.x += now.x - old.x;
      viewer.y += now.y - old.y;
      zoomBy(now.distance / Math.max(1, old.distance), now.x, now.y);
      return;
    }
    viewer.pointers.set(event.pointerId, at);
    if (viewer.drag === "line") moveLine(at.x);
    if (viewer.drag === "move") {
      viewer.x += at.x - before.x;
      viewer.y += at.y - before.y;
      place();
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    stage.addEventListener(name, (event) => viewer.pointers.delete(event.pointerId));
  }
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = point(event);
    zoomBy(Math.exp(-Math.max(-60, Math.min(60, event.deltaY)) / 150), at.x, at.y);
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => {
    const at = point(event);
    zoomBy(viewer.zoom > 1 ? 1 / viewer.zoom : 3, at.x, at.y);
  });
  byId("split").addEventListener("input", () => { viewer.split = Number(byId("split").value); place(); });
  for (const side of ["left", "right"]) {
    byId(side).addEventListener("change", () => { viewer[side] = byId(side).value; showPictures(); });
  }
  const clicks = {
    previous: () => go(-1), next: () => go(1), swap, close: () => dialog.close(),
    "zoom-in": () => zoomBy(1.5), "zoom-out": () => zoomBy(1 / 1.5),
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });  // on the backdrop
  dialog.addEventListener("close", () => {
    viewer.pointers.clear();
    const row = viewer.face && document.querySelector(`#faces > [data-number="${viewer.face.number}"]`);
    const button = row && (row.querySelector(`button[data-column="${CSS.escape(viewer.right)}"]`) || row.querySelector("button"));
    if (button) button.focus();
    state.face = "";
    writeHash();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const keys = { n: () => go(1), p: () => go(-1), x: swap, "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => zoomBy(1 / MAX_ZOOM) };
    const action = keys[event.key.toLowerCase()];
    const column = /^[1-9]$/.test(event.key) && viewer.face.columns[Number(event.key) - 1];
    if (column) {
      viewer.right = column;
      showPictures();
    } else if (action) {
      action();
    } else {
      return;
    }
    event.preventDefault();
  });
  window.addEventListener("resize", () => { if (dialog.open) place(); });
}

setUpViewer();
start();
