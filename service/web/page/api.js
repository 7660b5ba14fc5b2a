// Requests to the service. The key, where one is needed, lives in this tab's sessionStorage and goes as a bearer header.
const STORED_KEY = "normfold-key";
const ROOT = new URL("../../", import.meta.url); // this file lies below page/HASH/, under any prefix

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const address = (path) => new URL(path.replace(/^\//, ""), ROOT).href;

export const storedKey = () => sessionStorage.getItem(STORED_KEY) ?? "";

export function storeKey(key) {
  if (key) sessionStorage.setItem(STORED_KEY, key);
  else sessionStorage.removeItem(STORED_KEY);
}

// Returns the JSON of the response and how long it took; throws ApiError with the service's sentence.
export async function timed(path, { method = "GET", body } = {}) {
  const key = storedKey();
  const headers = {
    ...(key && { Authorization: `Bearer ${key}` }),
    ...(body !== undefined && { "Content-Type": "application/json" }),
  };
  const began = performance.now();
  let response;
  try {
    response = await fetch(address(path), { method, headers, body: body && JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new ApiError(0, "The service does not answer.");
  }
  const text = await response.text();
  const milliseconds = performance.now() - began;
  const record = text ? JSON.parse(text) : {};
  if (!response.ok) throw new ApiError(response.status, record.error ?? `${response.status} ${response.statusText}`);
  return { record, milliseconds };
}

export const request = async (path, options) => (await timed(path, options)).record;

export const modelPath = (model, version) =>
  `models/${encodeURIComponent(model)}/versions/${encodeURIComponent(version)}`;
