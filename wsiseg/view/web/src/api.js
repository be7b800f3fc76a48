// Requests to the server. The page lies under the token, so relative addresses carry it.
const ROOT = new URL("api/", new URL(".", location.href));

export class Refused extends Error {}

async function answer(path, options) {
  const response = await fetch(new URL(path, ROOT), options);
  if (response.ok) return response.json();
  const text = await response.text();
  let said = text;
  try {
    said = JSON.parse(text).error;
  } catch {
    // plain text
  }
  throw new Refused(said || `status ${response.status}`);
}

export const get = (path) => answer(path);

export const post = (path, content) =>
  answer(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(content),
  });

export const remove = (path) => answer(path, { method: "DELETE" });

export function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  return url.href;
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Objects are read in the background the first time they are asked for.
export async function objectsReady(number, stem, isWanted) {
  for (let pause = 100; isWanted(); pause = Math.min(2000, pause * 1.5)) {
    const about = await get(`${number}/objects/${stem}`);
    if (about.ready) return about;
    await wait(pause);
  }
  return null;
}
