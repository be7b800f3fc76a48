import { h, swatch } from "./dom.js";
import { COLOR_MAPS } from "./layers.js";
import { figure } from "./text.js";

const HEADINGS = { mask: "Classes", heatmap: "Heatmap", uncertainty: "Uncertainty", tissue: "Tissue", annotations: "Objects" };
const KEYS = { mask: "M", heatmap: "H", uncertainty: "U", tissue: "T", annotations: "O" };

// Switches, opacity, colour maps and classes of the layers of the active pane.
export class LayerPanel {
  constructor(app) {
    this.app = app;
    this.element = h("section", { class: "layers" });
  }

  fill() {
    const pane = this.app.active;
    const layers = [...pane.layers].reverse();
    this.element.replaceChildren(h("h2", {}, "Layers"), ...layers.map((layer) => this.card(pane, layer)));
  }

  card(pane, layer) {
    const { settings } = layer;
    const change = (changes, more) => this.app.changeLayer(layer.key, changes, more);
    const check = h("input", { type: "checkbox", checked: settings.visible, onchange: () => change({ visible: check.checked }) });
    const name = layer.title === HEADINGS[layer.kind] ? layer.title : `${HEADINGS[layer.kind]}: ${layer.title}`;
    const note = layer.trouble ?? (layer.isReading ? "reading …" : layer.count === undefined ? "" : figure(layer.count));
    const parts = [
      h("label", { class: "switch" }, check, h("span", { title: name }, layer.stem === "annotations" ? "Outlines" : name), h("small", {}, note), h("kbd", {}, KEYS[layer.kind])),
    ];
    if (settings.visible) parts.push(this.opacity(settings, change), ...this.more(layer, change));
    return h("div", { class: settings.visible ? "layer on" : "layer", "data-layer": layer.key }, parts);
  }

  opacity(settings, change) {
    const slider = range(0, 100, Math.round(settings.opacity * 100), (value) => change({ opacity: value / 100 }, { quietly: true }));
    return h("div", { class: "row" }, h("label", { class: "muted" }, "Opacity"), slider);
  }

  *more(layer, change) {
    const { settings } = layer;
    if (settings.map) {
      const map = h(
        "select",
        { "aria-label": "Colour map", onchange: () => change({ map: map.value }, { isColored: true }) },
        COLOR_MAPS.map((name) => h("option", { value: name, selected: name === settings.map }, name)),
      );
      const shown = h("small", {}, `${settings.least} %`);
      const least = range(0, 95, settings.least, (value) => (shown.textContent = `${value} %`));
      least.addEventListener("change", () => change({ least: Number(least.value) }, { isColored: true, quietly: true }));
      yield h("div", { class: "row" }, h("label", { class: "muted" }, "Colours"), map);
      yield h("div", { class: `ramp ${settings.map}` }, h("small", {}, "0"), h("small", {}, layer.kind === "heatmap" ? "probability" : layer.title), h("small", {}, "1"));
      yield h("div", { class: "row" }, h("label", { class: "muted" }, "From"), least, shown);
    }
    const classes = layer.kind === "mask" ? layer.classes.slice(1) : layer.classes;
    const first = layer.kind === "mask" ? 1 : 0;
    if (layer.kind === "tissue") return;
    for (const [index, known] of classes.entries()) {
      const value = index + first;
      const box = h("input", { type: "checkbox", checked: !settings.hidden.has(value), onchange: () => toggle(box.checked) });
      const toggle = (isShown) => {
        const hidden = new Set(settings.hidden);
        if (isShown) hidden.delete(value);
        else hidden.add(value);
        change({ hidden }, { isColored: true, quietly: true });
      };
      yield h("label", { class: "class" }, box, swatch(known.color), h("span", { title: known.name }, known.name));
    }
  }
}

function range(min, max, value, oninput) {
  const slider = h("input", { type: "range", min: String(min), max: String(max), value: String(value) });
  slider.addEventListener("input", () => oninput(Number(slider.value)));
  return slider;
}
