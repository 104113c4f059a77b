// Talking to the service: JSON in, JSON out, and errors as sentences.
const KEPT = "indexmill-token";

export class Trouble extends Error {
  constructor(message, status) { super(message); this.status = status; }
}

export const keepToken = (token) => sessionStorage.setItem(KEPT, token);
const token = () => sessionStorage.getItem(KEPT);

export async function fetched(path, options = {}) {
  const headers = { ...options.headers, ...(token() ? { Authorization: `Bearer ${token()}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Trouble("The service does not answer.", 0);
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Trouble(sentence(said.detail || answer.statusText || "This did not work"), answer.status);
}

export const told = async (path) => (await fetched(path)).json();

export async function search(index, asked, signal) {
  const path = `/v1/indexes/${encodeURIComponent(index)}/search`;
  if (!asked.image) {
    const headers = { "Content-Type": "application/json" };
    return (await fetched(path, { method: "POST", headers, body: JSON.stringify(asked), signal })).json();
  }
  const form = new FormData();
  form.append("image", asked.image);
  form.append("k", asked.k);
  if (asked.label) form.append("label", asked.label);
  return (await fetched(path, { method: "POST", body: form, signal })).json();
}

// A picture's address: its own where no token is needed, else one of the bytes that were fetched with it.
export async function pictured(path) {
  if (!token()) return path;
  return URL.createObjectURL(await (await fetched(path)).blob());
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
