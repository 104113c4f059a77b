import { ApiError, getJson, hasToken, imageUrl, request, search, setToken } from "./api.js";

const byId = (id) => document.getElementById(id);
const [form, textInput, fileInput, dropZone, labelInput, errorBox, resultList] =
  ["form", "text", "file", "drop", "label", "error", "results"].map(byId);
const IMAGE_HINT = "Drop an image here, or choose a file";

let indexes = [];
let lastQuery = null;      // the query of the results shown, without k and label
let runningSearch = null;  // an AbortController
let blobUrls = [];         // of images in memory, to be revoked

const selectedIndex = () => indexes.find((index) => index.name === byId("index").value);

async function start() {
  setStatus("");
  try {
    ({ indexes } = await getJson("/v1/indexes"));
  } catch (error) {
    return showError(error);
  }
  byId("access").hidden = true;
  byId("index").replaceChildren(...indexes.map((index) => new Option(index.name)));
  const parameters = new URLSearchParams(location.search);
  if (indexes.some((index) => index.name === parameters.get("index"))) byId("index").value = parameters.get("index");
  await updateForm();
  labelInput.value = parameters.get("label") || "";
  if (parameters.get("q") && !byId("by-text").hidden) {
    textInput.value = parameters.get("q");
    await runSearch({ texts: [textInput.value] });
  }
}

// Shows the inputs that the selected index accepts.
async function updateForm() {
  const index = selectedIndex();
  resultList.replaceChildren();
  errorBox.hidden = true;
  lastQuery = null;
  labelInput.value = "";
  if (!index) return setStatus("No index is being served.");
  byId("by-text").hidden = !index.query_modalities.includes("text");
  byId("by-image").hidden = !index.query_modalities.includes("image");
  byId("report").hidden = !index.ready;
  byId("report").href = `/v1/indexes/${index.name}/report`;
  if (!index.ready) return setStatus(`${index.name} has no snapshot yet.`);
  const description = index.description ? `: ${index.description.replace(/\.$/, "")}` : "";
  setStatus(`${index.items.toLocaleString("en-US")} ${index.modality}s${description}. Snapshot ${index.snapshot_id}.`);
  const { labels } = await getJson(`/v1/indexes/${index.name}/labels`).catch(() => ({ labels: [] }));
  if (selectedIndex() === index) byId("labels").replaceChildren(...labels.map((name) => new Option(name)));
}

async function runSearch(query) {
  runningSearch?.abort();
  const controller = runningSearch = new AbortController();
  lastQuery = query;
  const options = { k: Number(byId("k").value), ...(labelInput.value ? { label: labelInput.value } : {}) };
  document.body.classList.add("busy");
  errorBox.hidden = true;
  setStatus("Searching…");
  updateUrl();
  const startTime = performance.now();
  try {
    const answer = await search(selectedIndex().name, { ...query, ...options }, controller.signal);
    if (runningSearch === controller) showResults(answer, performance.now() - startTime);
  } catch (error) {
    if (runningSearch === controller && error.name !== "AbortError") showError(error);
  } finally {
    if (runningSearch === controller) document.body.classList.remove("busy");
  }
}

function repeatSearch() {
  if (lastQuery) runSearch(lastQuery);
}

function searchByImage(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return showError(new ApiError("This file is not an image."));
  textInput.value = "";
  showPreview(file);
  runSearch({ image: file });
}

function showResults(answer, totalMs) {
  blobUrls.forEach((url) => URL.revokeObjectURL(url));
  blobUrls = [];
  const items = answer.results[0];
  resultList.classList.toggle("texts", !items.some((item) => item.thumbnail));
  resultList.replaceChildren(...items.map(makeCard));
  const count = items.length === 1 ? "1 result" : `${items.length} results`;
  const empty = labelInput.value ? `No items with the label “${labelInput.value}”.` : "No results.";
  setStatus(`${items.length ? `${count}.` : empty} Snapshot ${answer.snapshot_id}. Encoding ${formatMs(answer.encode_ms)}, ` +
            `search ${formatMs(answer.search_ms)}, total ${formatMs(totalMs)}.`);
}

function makeCard(item) {
  const card = byId("result").content.cloneNode(true);
  const part = (name) => card.querySelector(`.${name}`);
  part("score").textContent = item.score.toFixed(4);
  part("score").title = `score; distance ${item.distance.toFixed(4)}`;
  part("key").textContent = item.key;
  if (item.thumbnail) {
    showThumbnail(part("picture"), item);
  } else if (item.text) {
    part("text").hidden = false;
    part("text").textContent = item.text;
  }
  if (item.label) {
    const button = part("label");
    button.hidden = false;
    button.textContent = item.label;
    button.setAttribute("aria-label", `Show only label ${item.label}`);
    button.onclick = () => { labelInput.value = item.label; repeatSearch(); };
  }
  part("more").setAttribute("aria-label", `More like ${item.key}`);
  part("more").onclick = () => { textInput.value = ""; showPreview(null); resultList.focus(); runSearch({ items: [item.id] }); };
  return card;
}

async function showThumbnail(frame, item) {
  const image = frame.firstElementChild;
  frame.hidden = false;
  image.alt = item.label ? `${item.label}: ${item.key}` : item.key;
  image.onerror = () => { frame.hidden = true; };
  try {
    image.src = await imageUrl(item.thumbnail);
    if (image.src.startsWith("blob:")) blobUrls.push(image.src);
  } catch {
    frame.hidden = true;
  }
}

function showPreview(file) {
  const preview = byId("preview");
  if (preview.src) URL.revokeObjectURL(preview.src);
  preview.hidden = !file;
  if (file) preview.src = URL.createObjectURL(file); else preview.removeAttribute("src");
  byId("hint").textContent = file ? `Similar to ${file.name}. Choose another` : IMAGE_HINT;
}

// Puts the query into the address, so that it can be shared.
function updateUrl() {
  const parameters = new URLSearchParams({ index: selectedIndex().name });
  if (lastQuery.texts) parameters.set("q", lastQuery.texts[0]);
  if (labelInput.value) parameters.set("label", labelInput.value);
  history.replaceState(null, "", `?${parameters}`);
}

function setStatus(text) {
  byId("status").textContent = text;
}

function showError(error) {
  setStatus("");
  resultList.replaceChildren();
  errorBox.textContent = error.message;
  errorBox.hidden = false;
  if (error.status === 401) {
    byId("access").hidden = false;
    byId("token").focus();
  }
}

function formatMs(milliseconds) {
  if (milliseconds < 10) return `${milliseconds.toFixed(1)} ms`;
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (document.activeElement === labelInput) return repeatSearch();
  if (!textInput.value.trim()) {
    textInput.focus();
    return setStatus("Type something to search for.");
  }
  showPreview(null);
  runSearch({ texts: [textInput.value] });
});
byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value);
  errorBox.hidden = true;
  start();
});
byId("index").addEventListener("change", () => {
  runningSearch?.abort();
  runningSearch = null;
  document.body.classList.remove("busy");
  showPreview(null);
  textInput.value = "";
  updateForm();
});
byId("k").addEventListener("change", repeatSearch);
labelInput.addEventListener("change", repeatSearch);
fileInput.addEventListener("change", () => { searchByImage(fileInput.files[0]); fileInput.value = ""; });
byId("report").addEventListener("click", async (event) => {
  if (!hasToken()) return;
  event.preventDefault(); // a link cannot send a token, so the report is downloaded
  const report = await (await request(event.target.href)).blob();
  Object.assign(document.createElement("a"), { href: URL.createObjectURL(report), download: `${selectedIndex().name}-report.html` }).click();
});
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(type, (event) => {
    event.preventDefault();
    dropZone.classList.toggle("drag-over", type === "dragenter" || type === "dragover");
    if (type === "drop" && !byId("by-image").hidden) searchByImage(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => {
  if (!byId("by-image").hidden && event.clipboardData.files.length) searchByImage(event.clipboardData.files[0]);
});

start();
