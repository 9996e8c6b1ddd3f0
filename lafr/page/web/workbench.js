// Draws the value that lafr.page.sessions.Session.view makes, and tells what the user did by trigger('input', ...).
// Every text is set as text, never as HTML: names of files come from users. Elements are kept where they are and only
// changed, so that the focus of a keyboard stays where it was.
const find = (selector) => element.querySelector(selector);
const make = (tag, name, more) => Object.assign(document.createElement(tag), { className: name }, more);
const tell = (kind, more) => trigger("input", { kind, ...more });
const VERDICTS = {
  same: "same person",
  changed: "may be someone else",
  eased: "eased, same person",
  left: "left as it was",
};

function drawPhotos(photos, current) {
  const strip = find(".strip");
  const known = new Map([...strip.children].map((item) => [Number(item.dataset.id), item]));
  for (const photo of photos) {
    let item = known.get(photo.id);
    known.delete(photo.id);
    if (!item) {
      item = make("div", "photo");
      item.dataset.id = photo.id;
      const pick = make("button", "pick", { type: "button" });
      pick.append(make("img", "", { src: photo.thumb, alt: "" }), make("span", "count"));
      pick.addEventListener("click", () => tell("pick", { photo: photo.id }));
      const remove = make("button", "remove", { type: "button", textContent: "×" });
      remove.setAttribute("aria-label", `Remove ${photo.name}`);
      remove.addEventListener("click", () => tell("remove", { photo: photo.id }));
      pick.title = photo.name;
      item.append(pick, remove);
      strip.append(item);
    }
    const faces = photo.faces === 1 ? "1 face" : `${photo.faces} faces`;
    const pick = item.querySelector(".pick");
    pick.setAttribute("aria-label", `${photo.name}, ${faces}${photo.done ? ", restored" : ""}`);
    pick.setAttribute("aria-pressed", photo.id === current);
    item.classList.toggle("done", photo.done);
    item.querySelector(".count").textContent = photo.done ? `✓ ${photo.faces}` : photo.faces;
  }
  known.forEach((item) => item.remove());
}

function drawViewer(shown) {
  find(".viewer").hidden = !shown;
  if (!shown) return;
  find(".before").src = shown.before;
  const after = find(".after");
  if (shown.after) after.src = shown.after;
  find(".viewer").classList.toggle("single", !shown.after);
  find("figcaption").textContent = `${shown.name}, ${shown.size} px`;
}

function faceCard(face) {
  const card = make("li", "face");
  const tick = make("input", "", { type: "checkbox" });
  const label = make("label", "tick");
  label.append(tick, make("span", "name"));
  const pair = make("div", "pair");
  pair.append(make("img", "was", { alt: "as it was" }), make("img", "is", { alt: "restored" }));
  const slider = make("input", "", { type: "range", min: 0, max: 100, step: 5 });
  const strength = make("label", "strength");
  strength.append(make("span", "", { textContent: "Strength" }), slider, make("output", ""));
  card.append(label, pair, make("p", "identity"), strength);
  const own = () => ({ photo: view.current, face: Number(card.dataset.number) });
  tick.addEventListener("change", () => tell("tick", { ...own(), value: tick.checked }));
  slider.addEventListener("input", () => (strength.lastChild.textContent = `${slider.value} %`));
  slider.addEventListener("change", () => tell("strength", { ...own(), value: Number(slider.value) }));
  const box = find(".box");
  const show = () => {
    const [x, y, w, h] = card.place.map((value) => `${100 * value}%`);
    Object.assign(box.style, { left: x, top: y, width: w, height: h });
    box.hidden = false;
  };
  const hide = () => (box.hidden = true);
  card.addEventListener("pointerenter", show);
  card.addEventListener("pointerleave", hide);
  card.addEventListener("focusin", show);
  card.addEventListener("focusout", hide);
  return card;
}

function drawFaces(faces) {
  const list = find(".faces");
  while (list.children.length > faces.length) list.lastChild.remove();
  faces.forEach((face, index) => {
    if (!list.children[index]) list.append(faceCard(face));
    const card = list.children[index];
    card.dataset.number = face.number;
    card.place = face.box;
    card.classList.toggle("out", !face.restore);
    card.querySelector(".tick input").checked = face.restore;
    card.querySelector(".name").textContent = `Face ${face.number}`;
    const like = face.likeness === null ? "" : ` Likeness to the photo chosen: ${face.likeness.toFixed(2)}.`;
    card.querySelector(".name").title = `The detector is ${Math.round(100 * face.score)} % sure of it.${like}`;
    card.querySelector(".was").src = face.before;
    const after = card.querySelector(".is");
    after.hidden = !face.after;
    if (face.after) after.src = face.after;
    const slider = card.querySelector(".strength input");
    if (document.activeElement !== slider) slider.value = face.strength;
    card.querySelector(".strength output").textContent = `${slider.value} %`;
    const identity = card.querySelector(".identity");
    const known = face.identity;
    identity.className = `identity ${known ? known.verdict : ""}`;
    if (known) {
      const percent = (share) => `${(100 * share).toFixed(1)} %`;
      identity.textContent = `${VERDICTS[known.verdict]} · ${known.figure.toFixed(2)}`;
      identity.title =
        `Likeness to the face in the photo. Of pairs of the same person ${percent(known.same_above)} lie above this ` +
        `figure, of pairs of different persons ${percent(known.different_above)}.`;
    } else {
      identity.textContent = face.restore ? (face.done ? "" : "not restored yet") : "stays as it is";
      identity.title = "";
    }
  });
}

function drawProgress(news) {
  const progress = find(".progress");
  progress.hidden = !news.status;
  progress.querySelector("span").textContent = news.status || "";
  progress.querySelector("progress").value = news.share || 0;
}

// A box drawn over the photo ticks the faces in it.
function boxing(on) {
  find(".frame").classList.toggle("boxing", on);
  find(".boxer").setAttribute("aria-pressed", on);
  find(".rubber").hidden = true;
}

function drawBoxes() {
  const frame = find(".frame");
  const rubber = find(".rubber");
  let start = null;
  let box = null;
  const place = (event) => {
    const area = frame.getBoundingClientRect();
    const shares = [(event.clientX - area.left) / area.width, (event.clientY - area.top) / area.height];
    return shares.map((share) => Math.min(1, Math.max(0, share)));
  };
  frame.addEventListener("pointerdown", (event) => {
    if (!frame.classList.contains("boxing")) return;
    event.preventDefault();
    [start, box] = [place(event), null];
  });
  document.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = place(event);
    box = [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
    const [left, top, width, height] = [box[0], box[1], box[2] - box[0], box[3] - box[1]].map((v) => `${100 * v}%`);
    Object.assign(rubber.style, { left, top, width, height });
    rubber.hidden = false;
  });
  document.addEventListener("pointerup", () => {
    if (!start) return;
    start = null;
    boxing(false);
    if (box) tell("box", { photo: view.current, value: box });
  });
  find(".boxer").addEventListener("click", () => boxing(!frame.classList.contains("boxing")));
}

// Gradio's own place to drop takes files alone. A folder is walked here, and so is what is dropped beside that place,
// which the browser would leave the page for.
async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
    if (!some.length) return found;
    for (const one of some) found.push(...(await filesOf(one)));
  }
}

async function takeDropped(event) {
  const entries = [...(event.dataTransfer?.items || [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const folders = entries.some((entry) => entry.isDirectory);
  if (!entries.length || (event.target.closest?.("#drop, #like") && !folders)) return;
  event.preventDefault();
  event.stopPropagation();
  const files = (await Promise.all(entries.map(filesOf))).flat();
  const input = document.querySelector("#drop input[type=file]");
  const kinds = input.accept.split(",").map((kind) => kind.trim().toLowerCase());
  const taken = new DataTransfer();
  files.filter((file) => kinds.some((kind) => file.name.toLowerCase().endsWith(kind))).forEach((f) => taken.items.add(f));
  input.files = taken.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
}

let view = { photos: [], messages: [] };

function draw() {
  const news = props.value || view;
  drawProgress(news);
  if (!news.photos) return; // of the progress alone
  view = news;
  drawPhotos(view.photos, view.current);
  drawViewer(view.shown);
  drawFaces(view.shown ? view.shown.faces : []);
  find(".empty").hidden = view.photos.length > 0;
  const messages = find(".messages");
  messages.hidden = !view.messages.length;
  messages.replaceChildren(...view.messages.map((text) => make("li", "", { textContent: text })));
}

find(".split").addEventListener("input", (event) => {
  find(".frame").style.setProperty("--split", `${event.target.value}%`);
});
drawBoxes();
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", takeDropped, true);
draw();
watch("value", draw);
