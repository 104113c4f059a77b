import { Trouble, fetched, keepToken, pictured, search, told } from "./asking.js";

const the = (id) => document.getElementById(id);
const [form, box, file, drop, label, status, problem, results] = ["form", "text", "file", "drop", "label", "status", "problem", "results"].map(the);
let indexes = [];
let asked = null;      // what the results are of, without k and label
let running = null;    // the AbortController of the search under way
let addresses = [];    // of pictures in memory, to be let go of

const chosen = () => indexes.find((index) => index.name === the("index").value);

async function start() {
  say("");
  try {
    ({ indexes } = await told("/v1/indexes"));
  } catch (trouble) {
    return complain(trouble);
  }
  the("access").hidden = true;
  the("index").replaceChildren(...indexes.map((index) => new Option(index.name)));
  const wanted = new URLSearchParams(location.search);
  if (indexes.some((index) => index.name === wanted.get("index"))) the("index").value = wanted.get("index");
  await settle();
  label.value = wanted.get("label") || "";
  if (wanted.get("q") && !the("by-text").hidden) { box.value = wanted.get("q"); await ask({ texts: [box.value] }); }
}

// What the page offers follows from what the chosen index takes.
async function settle() {
  const index = chosen();
  results.replaceChildren();
  problem.hidden = true;
  asked = null;
  label.value = "";
  if (!index) return say("No index is served.");
  const takes = (modality) => index.takes.includes(modality);
  the("by-text").hidden = !takes("text");
  the("by-image").hidden = !takes("image");
  the("report").hidden = !index.ready;
  the("report").href = `/v1/indexes/${index.name}/report`;
  if (!index.ready) return say(`${index.name} has no snapshot yet.`);
  say(`${index.items.toLocaleString()} ${index.modality}s${index.description ? `: ${index.description}` : ""}. Snapshot ${index.snapshot_id}.`);
  const { labels } = await told(`/v1/indexes/${index.name}/labels`).catch(() => ({ labels: [] }));
  if (chosen() === index) the("labels").replaceChildren(...labels.map((name) => new Option(name)));
}

async function ask(query) {
  running?.abort();
  const mine = running = new AbortController();
  asked = query;
  const options = { k: Number(the("k").value), ...(label.value ? { label: label.value } : {}) };
  document.body.classList.add("busy");
  problem.hidden = true;
  say("Searching …");
  remember();
  const start = performance.now();
  try {
    const answer = await search(chosen().name, { ...query, ...options }, mine.signal);
    if (running === mine) show(answer, performance.now() - start);
  } catch (trouble) {
    if (running === mine && trouble.name !== "AbortError") complain(trouble);
  } finally {
    if (running === mine) document.body.classList.remove("busy");
  }
}

function show(answer, milliseconds) {
  addresses.forEach((address) => URL.revokeObjectURL(address));
  addresses = [];
  const found = answer.results[0];
  results.classList.toggle("texts", !found.some((item) => item.thumbnail));
  results.replaceChildren(...found.map(card));
  const count = found.length === 1 ? "1 result" : `${found.length} results`;
  const nothing = label.value ? `Nothing has the label “${label.value}”.` : "Nothing was found.";
  say(`${found.length ? `${count}.` : nothing} Snapshot ${answer.snapshot_id}; encoded in ${time(answer.encode_ms)}, searched in ${time(answer.search_ms)}, ` +
      `here after ${time(milliseconds)}.`);
}

function card(item) {
  const node = the("result").content.cloneNode(true);
  const part = (name) => node.querySelector(`.${name}`);
  part("score").textContent = item.score.toFixed(4);
  part("score").title = `distance ${item.distance.toFixed(4)}`;
  part("key").textContent = item.key;
  if (item.thumbnail) picture(part("picture"), item);
  else if (item.text) { part("text").hidden = false; part("text").textContent = item.text; }
  if (item.label) {
    const button = part("label");
    button.hidden = false;
    button.textContent = item.label;
    button.setAttribute("aria-label", `Only label ${item.label}`);
    button.onclick = () => { label.value = item.label; again(); };
  }
  part("more").setAttribute("aria-label", `More like ${item.key}`);
  part("more").onclick = () => { box.value = ""; preview(null); results.focus(); ask({ items: [item.id] }); };
  return node;
}

async function picture(place, item) {
  const image = place.firstElementChild;
  place.hidden = false;
  image.alt = item.label ? `${item.label}: ${item.key}` : item.key;
  image.onerror = () => { place.hidden = true; };
  try {
    image.src = await pictured(item.thumbnail);
    if (image.src.startsWith("blob:")) addresses.push(image.src);
  } catch { place.hidden = true; }
}

function again() { if (asked) ask(asked); }

function askImage(image) {
  if (!image) return;
  if (!image.type.startsWith("image/")) return complain(new Trouble("This file is no image.", 0));
  box.value = "";
  preview(image);
  ask({ image });
}

function preview(image) {
  const shown = the("asked");
  if (shown.src) URL.revokeObjectURL(shown.src);
  shown.hidden = !image;
  if (image) shown.src = URL.createObjectURL(image); else shown.removeAttribute("src");
  the("hint").textContent = image ? `Like ${image.name}. Choose another` : "Drop an image here, or choose one";
}

function remember() {
  const state = new URLSearchParams({ index: chosen().name });
  if (asked.texts) state.set("q", asked.texts[0]);
  if (label.value) state.set("label", label.value);
  history.replaceState(null, "", `?${state}`);
}

function say(text) { status.textContent = text; }

function complain(trouble) {
  say("");
  results.replaceChildren();
  problem.textContent = trouble.message;
  problem.hidden = false;
  if (trouble.status === 401) { the("access").hidden = false; the("token").focus(); }
}

const time = (milliseconds) => milliseconds < 10 ? `${milliseconds.toFixed(1)} ms` : milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement === label) return again();
  if (!box.value.trim()) { box.focus(); return say("Type something to look for."); }
  preview(null);
  ask({ texts: [box.value] });
});
the("access").addEventListener("submit", (event) => { event.preventDefault(); keepToken(the("token").value); problem.hidden = true; start(); });
the("index").addEventListener("change", () => { running?.abort(); running = null; document.body.classList.remove("busy"); preview(null); box.value = ""; settle(); });
the("k").addEventListener("change", again);
label.addEventListener("change", again);
file.addEventListener("change", () => { askImage(file.files[0]); file.value = ""; });
the("report").addEventListener("click", async (event) => {
  if (!sessionStorage.getItem("indexmill-token")) return;
  event.preventDefault(); // a link carries no token
  const page = await (await fetched(event.target.href)).blob();
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(page), download: `${chosen().name}-report.html` });
  link.click();
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && !the("by-image").hidden) askImage(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => { if (!the("by-image").hidden && event.clipboardData.files.length) askImage(event.clipboardData.files[0]); });

start();
