// Questions to the interface, and the token that changes want.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem("dropmill-token") ?? "",
  set: (text) => sessionStorage.setItem("dropmill-token", text),
};

/** GET /api/v1/PATH; parameters that are null, undefined or empty are left out. */
export async function get(path, parameters = {}, signal = undefined) {
  return answer(await fetch(address(path, parameters), { signal }));
}

/** POST JSON; with the token where it is wanted. */
export async function post(path, body, { withToken = false, as = "json", signal = undefined } = {}) {
  const headers = { "Content-Type": "application/json" };
  if (withToken) headers.Authorization = `Bearer ${token.get()}`;
  const found = await fetch(`/api/v1/${path}`, { method: "POST", headers, body: JSON.stringify(body), signal });
  return answer(found, as);
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return `/api/v1/${path}${text ? `?${text}` : ""}`;
}

async function answer(found, as = "json") {
  if (found.ok) return as === "json" ? found.json() : found.blob();
  let why = `${found.status} ${found.statusText}`;
  try {
    const said = await found.json();
    why = said.error ?? (said.detail ?? []).map((one) => `${one.loc?.at(-1)}: ${one.msg}`).join("; ") ?? why;
  } catch {
    // No JSON: the status has to do.
  }
  throw new Refused(why, found.status);
}
