// The place that is shown, in the address: #slide=run/case&x=...&y=...&zoom=... (µm per pixel).
export function readPlace() {
  const fields = new URLSearchParams(location.hash.slice(1));
  const number = (name) => {
    const value = parseFloat(fields.get(name));
    return Number.isFinite(value) ? value : null;
  };
  return {
    slide: fields.get("slide"),
    with: fields.get("with"),
    x: number("x"),
    y: number("y"),
    zoom: number("zoom"),
  };
}

export function writePlace({ slide, x, y, zoom, with: other }) {
  const fields = new URLSearchParams({ slide });
  if (x !== undefined) fields.set("x", Math.round(x));
  if (y !== undefined) fields.set("y", Math.round(y));
  if (zoom !== undefined) fields.set("zoom", Number(zoom.toPrecision(4)));
  if (other) fields.set("with", other);
  history.replaceState(null, "", `#${fields.toString().replaceAll("%2F", "/")}`);
}

export const nameOf = (result) => `${result.group}/${result.name}`;
