// Elements in one expression: h("button", { class: "x", onclick }, "text", other).
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name in element && typeof value !== "string") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export const rgb = ([red, green, blue], alpha = 1) => `rgb(${red} ${green} ${blue} / ${alpha})`;

export function swatch(color) {
  return h("i", { class: "swatch", style: { background: rgb(color) } });
}

let hiding;

// A line that goes by itself; what failed stays longer.
export function say(text, { failed = false } = {}) {
  const place = byId("message");
  place.textContent = text;
  place.className = failed ? "shown failed" : "shown";
  clearTimeout(hiding);
  hiding = setTimeout(() => (place.className = ""), failed ? 8000 : 2500);
}
