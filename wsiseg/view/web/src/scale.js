import { h } from "./dom.js";
import { length } from "./text.js";

// A bar of 1, 2 or 5 times a power of ten, at most `longest` pixels.
export function fitting(umPerPixel, longest) {
  const most = umPerPixel * longest;
  const power = 10 ** Math.floor(Math.log10(most));
  const um = [5, 2, 1].map((step) => step * power).find((value) => value <= most * (1 + 1e-9));
  return { um, pixels: um / umPerPixel };
}

export class ScaleBar {
  constructor() {
    this.label = h("span");
    this.bar = h("i");
    this.readout = h("span", { class: "readout" });
    this.element = h("div", { class: "scale" }, h("div", { class: "bar" }, this.label, this.bar), this.readout);
  }

  show(umPerPixel) {
    const { um, pixels } = fitting(umPerPixel, 160);
    this.label.textContent = length(um);
    this.bar.style.width = `${pixels}px`;
    this.readout.textContent = `${Number(umPerPixel.toPrecision(3))} µm/px  ·  ${Number((10 / umPerPixel).toPrecision(2))}×`;
  }
}
