import { get } from "./api.js";
import { Compare } from "./compare.js";
import { byId, h, say } from "./dom.js";
import { Drawing } from "./drawing.js";
import { Inspector } from "./inspector.js";
import { listen } from "./keys.js";
import { LayerPanel } from "./layerpanel.js";
import { SlideList } from "./list.js";
import { Pane } from "./pane.js";
import { nameOf, readPlace, writePlace } from "./place.js";
import { Review } from "./review.js";

const ZOOMS = [[4, "2.5×"], [2, "5×"], [1, "10×"], [0.5, "20×"], [0.25, "40×"]];

// What is open, and what happens when something changes.
class App {
  async start() {
    this.listed = await get("results");
    this.settings = new Map();
    this.drawing = new Drawing();
    this.slidePane = new Pane(this);
    this.main = this.active = this.slidePane;
    this.panes = [this.main];
    byId("panes").append(this.main.element);
    this.main.start();
    this.layerPanel = new LayerPanel(this);
    this.inspector = new Inspector(this);
    this.review = new Review(this);
    this.compare = new Compare(this);
    byId("side").append(this.layerPanel.element, this.inspector.element, this.review.element);
    this.list = new SlideList(this);
    this.bar();
    for (const id of ["bar", "side"]) byId(id).addEventListener("pointerdown", () => this.compare.lead(this.active));
    listen(this);
    await this.follow(readPlace());
    addEventListener("hashchange", () => this.follow(readPlace()));
  }

  bar() {
    this.heading = h("h2");
    byId("bar").append(
      this.heading,
      h("div", { class: "zooms" }, h("button", { title: "Whole slide (0)", onclick: () => this.home() }, "Fit"), ZOOMS.map(([um, name], i) => h("button", { title: `${um} µm per pixel (${i + 1})`, onclick: () => this.active.goTo({ zoom: um }) }, name))),
      this.compare.choice,
      h("button", { title: "Copy the link to this place (L)", onclick: () => this.copyLink() }, "Link"),
      h("button", { class: "icon", title: "Keys (?)", onclick: () => this.help() }, "?"),
    );
  }

  async follow(place) {
    const { results } = this.listed;
    const one = results.find((result) => nameOf(result) === place.slide) ?? results[0];
    if (this.main.number === one.number && this.main.about) return this.main.goTo?.(place);
    await this.open(one.number, place);
    const other = place.with && results.find((result) => nameOf(result) === place.with);
    if (other) await this.compare.choose(String(other.number));
  }

  async open(number, place = null) {
    const one = this.listed.results[number];
    this.drawing.stop();
    this.inspector.clear();
    this.compare.close();
    document.title = `${one.name} · wsiseg`;
    this.heading.textContent = one.name;
    document.body.classList.toggle("volume", one.kind === "volume");
    try {
      if (one.kind === "volume") await this.openVolume(number);
      else await this.openSlide(number, place);
    } catch (error) {
      say(error.message, { failed: true });
    }
    this.list.mark();
    this.compare.renew();
  }

  async openSlide(number, place) {
    this.volume?.close();
    this.volume = null;
    this.slidePane.element.hidden = false;
    this.main = this.active = this.slidePane;
    this.panes = [this.main];
    this.compare.lead(this.main);
    await this.main.show(number, place);
    this.layersChanged(this.main);
    this.settled(this.main);
  }

  async openVolume(number) {
    this.slidePane.element.hidden = true;
    this.slidePane.number = null;
    const { VolumePane } = await import("./volume.js"); // large, and of no use for slides
    this.volume?.close();
    this.volume = new VolumePane(this);
    this.main = this.active = this.volume;
    this.panes = [this.main];
    byId("panes").append(this.volume.element);
    await this.volume.show(number);
    writePlace({ slide: nameOf(this.listed.results[number]) });
  }

  activate(pane) {
    if (this.active === pane) return;
    this.active = pane;
    for (const one of this.panes) one.element.classList.toggle("active", one === pane);
    this.layerPanel.fill();
    this.review.renew();
    this.review.mark();
  }

  inspect(pane, x, y) {
    this.inspector.inspect(pane, x, y);
  }

  moved(pane) {
    this.compare?.follow(pane);
  }

  settled(pane) {
    if (pane !== this.main || !pane.about || this.main === this.volume) return;
    const other = this.compare.pane;
    const results = this.listed.results;
    writePlace({ slide: nameOf(results[pane.number]), ...pane.place(), with: other ? nameOf(results[other.number]) : null });
  }

  // Layers look on the next slide as they were set on this one.
  settingsFor(pane) {
    for (const layer of pane.layers) {
      const known = this.settings.get(layer.key);
      if (known) Object.assign(layer.settings, known);
    }
  }

  layersChanged(pane) {
    if (pane !== this.active) return;
    this.layerPanel.fill();
    this.inspector.fill();
    this.review.renew();
  }

  correctionsChanged(pane) {
    if (pane !== this.active) return;
    this.review.mark();
    this.inspector.fill();
  }

  // In both panes, unless they show the same result: then side by side is for other layers.
  changeLayer(key, changes, { isColored = false, quietly = false } = {}) {
    const isSame = this.panes.length === 2 && this.panes[0].number === this.panes[1].number;
    for (const pane of isSame ? [this.active] : this.panes) {
      const layer = pane.layers.find((one) => one.key === key);
      if (!layer) continue;
      Object.assign(layer.settings, changes);
      pane.update(layer, { isColored });
      if (!isSame) this.settings.set(key, { ...layer.settings });
    }
    if (!quietly) this.layerPanel.fill();
  }

  toggleKind(kind) {
    const layer = this.active.layers?.find((one) => one.kind === kind);
    if (layer) this.changeLayer(layer.key, { visible: !layer.settings.visible });
    else this.active.toggleLabels?.();
  }

  fade(by) {
    for (const layer of this.active.layers ?? []) {
      if (!layer.settings.visible || layer.stem) continue;
      this.changeLayer(layer.key, { opacity: Math.min(1, Math.max(0, layer.settings.opacity + by)) });
    }
    this.active.fadeLabels?.(by);
  }

  peek(isOn) {
    for (const pane of this.panes) {
      for (const [, image] of pane.images ?? []) image.setOpacity(0);
      if (!isOn) for (const layer of pane.layers ?? []) pane.update(layer);
      pane.overlay?.canvas.classList.toggle("off", isOn);
      pane.peek?.(isOn);
    }
  }

  pan(x, y) {
    const { active } = this;
    if (active.scroll) return active.scroll(-y, x);
    const place = active.place();
    const size = active.viewer.viewport.getContainerSize();
    const step = (place.zoom / active.about.mpp[0]) * 0.2;
    active.goTo({ x: place.x + x * size.x * step, y: place.y + y * size.y * step });
  }

  zoomBy(factor) {
    if (this.active.viewer) this.active.viewer.viewport.zoomBy(factor).applyConstraints();
    else this.active.zoomBy?.(factor);
  }

  home() {
    if (this.active.viewer) this.active.viewer.viewport.goHome();
    else this.active.home?.();
  }

  escape() {
    if (this.drawing.isOn) this.drawing.stop();
    else this.inspector.clear();
  }

  async copyLink() {
    if (this.main !== this.volume) this.settled(this.main);
    try {
      await navigator.clipboard.writeText(location.href);
      say("The link to this place is in the clipboard.");
    } catch {
      say(location.href);
    }
  }

  help() {
    byId("help").showModal();
  }
}

const app = new App();
window.wsiseg = app; // for tests, and for whoever is curious
app.start().catch((error) => say(error.message, { failed: true }));
