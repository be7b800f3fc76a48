import { Niivue, SLICE_TYPE, DRAG_MODE } from "@niivue/niivue";

import { address, get } from "./api.js";
import { byId, h, swatch } from "./dom.js";
import { figure } from "./text.js";

// Window settings of CT in Hounsfield units, as radiology uses them: [name, low, high].
const WINDOWS = [["Soft tissue", -160, 240], ["Lung", -1350, 150], ["Bone", -450, 1050], ["Brain", 0, 80]];
const VIEWS = [["Planes", SLICE_TYPE.MULTIPLANAR], ["Axial", SLICE_TYPE.AXIAL], ["Coronal", SLICE_TYPE.CORONAL], ["Sagittal", SLICE_TYPE.SAGITTAL], ["3D", SLICE_TYPE.RENDER]];

// A scan in three planes with its labels over it.
export class VolumePane {
  constructor(app) {
    this.app = app;
    this.layers = [];
    this.canvas = h("canvas", { class: "scan" });
    this.readout = h("div", { class: "scan-readout" });
    this.element = h("section", { class: "pane dark" }, this.canvas, this.readout);
    this.panel = h("section", { class: "scan-panel" });
  }

  async show(number) {
    this.number = number;
    const about = (this.about = await get(`${number}`));
    byId("side").prepend(this.panel);
    this.nv = new Niivue({
      backColor: [0.06, 0.065, 0.075, 1],
      crosshairColor: [0.34, 0.71, 0.91, 0.8],
      crosshairWidth: 0.25,
      crosshairWidthUnit: "percent",
      show3Dcrosshair: true,
      dragMode: DRAG_MODE.contrast,
      isColorbar: false,
      isOrientCube: false,
      isRadiologicalConvention: true,
      multiplanarForceRender: true,
      logLevel: "error",
      onLocationChange: (at) => this.located(at),
    });
    await this.nv.attachToCanvas(this.canvas);
    const { files } = about.volume;
    const url = (name) => address(`${number}/volume/${name}`, { v: about.stamp });
    const wanted = [];
    if (files.scan) wanted.push({ url: url(files.scan), name: files.scan, colormap: "gray" });
    wanted.push({ url: url(files.labels), name: files.labels, opacity: files.scan ? 0.5 : 1 });
    await this.nv.loadVolumes(wanted);
    this.labels = this.nv.volumes.length - 1;
    this.opacity = files.scan ? 0.5 : 1;
    this.paint();
    this.nv.setSliceType(SLICE_TYPE.MULTIPLANAR);
    if (about.volume.modality === "CT") this.window(...WINDOWS[0].slice(1));
    this.fill();
  }

  // The colours of the labels: those of the classes, nothing where there is none.
  paint() {
    const { classes } = this.about.volume;
    const most = Math.max(1, this.nv.volumes[this.labels].global_max ?? 1, ...classes.map((one) => one.value));
    const table = { R: [], G: [], B: [], A: [], I: [], labels: [] };
    for (let value = 0; value <= most; value++) {
      const known = classes.find((one) => one.value === value);
      const [red, green, blue] = known?.color ?? [200, 200, 200];
      table.R.push(red);
      table.G.push(green);
      table.B.push(blue);
      table.A.push(value === 0 || this.hidden?.has(value) ? 0 : 255);
      table.I.push(value);
      table.labels.push(known?.name ?? String(value));
    }
    this.names = table.labels;
    this.nv.volumes[this.labels].setColormapLabel(table);
    this.nv.updateGLVolume();
  }

  fill() {
    const { volume, summary } = this.about;
    const scan = volume.files.scan ? this.nv.volumes[0] : null;
    const number = (name) => h("input", { type: "number", "aria-label": name, value: scan ? String(Math.round(scan[name])) : "", onchange: () => this.window(Number(low.value), Number(high.value)) });
    const low = number("cal_min");
    const high = number("cal_max");
    this.low = low;
    this.high = high;
    const opacity = h("input", { type: "range", min: "0", max: "100", value: String(this.opacity * 100), oninput: () => this.setOpacity(opacity.value / 100) });
    // Where nobody says what it is: air in Hounsfield units is -1000, MR has no such values.
    const ct = volume.modality === "CT" || (volume.modality !== "MR" && scan?.global_min < -500);
    this.panel.replaceChildren(
      h("h2", {}, "View"),
      h("div", { class: "zooms" }, VIEWS.map(([name, type]) => h("button", { onclick: () => this.nv.setSliceType(type) }, name))),
      ...(scan
        ? [
            h("h2", {}, "Window"),
            h("div", { class: "row" }, low, h("span", { class: "muted" }, "to"), high),
            ct ? h("div", { class: "zooms" }, WINDOWS.map(([name, from, to]) => h("button", { onclick: () => this.window(from, to) }, name))) : "",
            h("p", { class: "muted" }, "Or drag with the right button."),
          ]
        : [h("p", { class: "muted" }, volume.missing)]),
      h("h2", {}, "Labels"),
      h("div", { class: "row" }, h("label", { class: "muted" }, "Opacity"), opacity),
      ...volume.classes.filter((one) => one.value > 0).map((one) => this.classRow(one)),
      h("h2", {}, "Result"),
      h("dl", {}, Object.entries(summary).flatMap(([name, value]) => [h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, figure(value))])),
    );
  }

  classRow(one) {
    const box = h("input", { type: "checkbox", checked: true, onchange: () => this.hide(one.value, !box.checked) });
    return h("label", { class: "class" }, box, swatch(one.color), h("span", { title: one.name }, one.name));
  }

  hide(value, isHidden) {
    this.hidden ??= new Set();
    if (isHidden) this.hidden.add(value);
    else this.hidden.delete(value);
    this.paint();
  }

  window(low, high) {
    if (!this.about.volume.files.scan || !(low < high)) return;
    const scan = this.nv.volumes[0];
    scan.cal_min = low;
    scan.cal_max = high;
    this.nv.updateGLVolume();
    if (this.low) [this.low.value, this.high.value] = [String(low), String(high)];
  }

  setOpacity(value) {
    this.opacity = value;
    this.nv.setOpacity(this.labels, value);
  }

  toggleLabels() {
    this.nv.setOpacity(this.labels, this.nv.volumes[this.labels].opacity > 0 ? 0 : this.opacity || 0.5);
  }

  fadeLabels(by) {
    this.setOpacity(Math.min(1, Math.max(0, this.opacity + by)));
  }

  peek(isOn) {
    this.nv.setOpacity(this.labels, isOn ? 0 : this.opacity);
  }

  scroll(slices, across) {
    this.nv.moveCrosshairInVox(across, 0, slices);
  }

  zoomBy(factor) {
    const [x, y, z, zoom] = this.nv.scene.pan2Dxyzmm;
    this.nv.setPan2Dxyzmm([x, y, z, Math.max(0.2, zoom * factor)]);
  }

  home() {
    this.nv.setPan2Dxyzmm([0, 0, 0, 1]);
  }

  goTo() {}

  located({ mm, values }) {
    const place = [...mm].slice(0, 3).map((value) => value.toFixed(1)).join(", ");
    const label = values[this.labels ?? values.length - 1]?.value;
    const scan = this.about.volume.files.scan ? figure(values[0].value) : null;
    const name = this.names?.[Math.round(label)] ?? "";
    this.readout.textContent = [`${place} mm`, scan && `value ${scan}`, label ? name : "no label"].filter(Boolean).join("  ·  ");
  }

  close() {
    this.panel.remove();
    this.element.remove();
    this.nv?.gl?.getExtension("WEBGL_lose_context")?.loseContext();
    this.number = null;
  }
}
