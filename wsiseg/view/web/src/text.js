// Numbers and names as people read them.
export function figure(value) {
  if (value === null || value === undefined || value === "") return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

export const percent = (value) => `${(100 * value).toFixed(value > 0.995 || value < 0.005 ? 1 : 0)} %`;

export function length(um) {
  if (um >= 1000) return `${Number((um / 1000).toPrecision(3))} mm`;
  return um >= 1 ? `${Number(um.toPrecision(3))} µm` : `${Number((um * 1000).toPrecision(3))} nm`;
}

// "Tumor_mm2" -> "Tumor, mm²"; what begins with "wsiseg: " loses that.
export function title(name) {
  return name
    .replace(/^wsiseg: /, "")
    .replace(/_mm2$/, ", mm²")
    .replace(/ mm\^2$/, "")
    .replace(/ um\^2$/, ", µm²")
    .replaceAll("_", " ");
}

// A measurement as [name, value]; areas in the unit that gives a number people can say.
export function measured(name, value) {
  const area = / mm\^2$/.test(name);
  if (!area || value >= 0.01) return [title(name), figure(value) + (area ? " mm²" : "")];
  return [title(name), `${figure(Number((value * 1e6).toPrecision(3)))} µm²`];
}
