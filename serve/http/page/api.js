// Calls the HTTP API: JSON in, JSON out. Errors become ApiError with a sentence for the user.
const TOKEN_KEY = "indexmill-token";

export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

const getToken = () => sessionStorage.getItem(TOKEN_KEY);
export const setToken = (token) => sessionStorage.setItem(TOKEN_KEY, token);
export const hasToken = () => Boolean(getToken());

export async function request(path, options = {}) {
  const headers = { ...options.headers, ...(hasToken() ? { Authorization: `Bearer ${getToken()}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The service does not respond.");
  }
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({}));
  throw new ApiError(toSentence(problem.detail || response.statusText || "the request failed"), response.status);
}

export const getJson = async (path) => (await request(path)).json();

export async function search(index, query, signal) {
  const path = `/v1/indexes/${encodeURIComponent(index)}/search`;
  if (!query.image) {
    const headers = { "Content-Type": "application/json" };
    return (await request(path, { method: "POST", headers, body: JSON.stringify(query), signal })).json();
  }
  const form = new FormData();
  form.append("image", query.image);
  form.append("k", query.k);
  if (query.label) form.append("label", query.label);
  return (await request(path, { method: "POST", body: form, signal })).json();
}

// An <img> cannot send a token, so with one the image is fetched here and shown from memory.
export async function imageUrl(path) {
  if (!hasToken()) return path;
  return URL.createObjectURL(await (await request(path)).blob());
}

function toSentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
