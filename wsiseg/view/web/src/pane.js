import OpenSeadragon from "openseadragon";

import { get, objectsReady } from "./api.js";
import { h } from "./dom.js";
import { layersOf, slideSource } from "./layers.js";
import { Overlay } from "./overlay.js";
import { ScaleBar } from "./scale.js";

const SETTINGS = {
  drawer: "canvas",
  showNavigationControl: false,
  showNavigator: true,
  navigatorPosition: "TOP_RIGHT",
  navigatorSizeRatio: 0.16,
  navigatorAutoFade: false,
  animationTime: 0.35,
  springStiffness: 9,
  zoomPerScroll: 1.35,
  zoomPerClick: 1,
  minZoomImageRatio: 0.6,
  maxZoomPixelRatio: 8,
  visibilityRatio: 0.3,
  immediateRender: true,
  imageLoaderLimit: 6,
  maxImageCacheCount: 600,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  keyboardNavEnabled: false,
};

// One slide with its result: pixels, layers, overlay, scale bar.
export class Pane {
  constructor(app) {
    this.app = app;
    this.number = null;
    this.about = null;
    this.layers = [];
    this.images = new Map();
    this.overlay = new Overlay(this);
    this.scale = new ScaleBar();
    this.title = h("div", { class: "pane-title" });
    this.view = h("div", { class: "osd" });
    this.element = h(
      "section",
      { class: "pane" },
      this.view,
      this.overlay.canvas,
      this.title,
      this.scale.element,
    );
    for (const name of ["pointerenter", "pointerdown"]) {
      this.element.addEventListener(name, () => app.compare.lead(this));
    }
  }

  start() {
    this.viewer = new OpenSeadragon.Viewer({ element: this.view, ...SETTINGS });
    this.viewer.addHandler("update-viewport", () => this.moved());
    this.viewer.addHandler("animation-finish", () => this.app.settled(this));
    this.viewer.addHandler("canvas-click", (event) => this.clicked(event));
    for (const name of ["canvas-press", "canvas-drag", "canvas-drag-end", "canvas-release"]) {
      this.viewer.addHandler(name, (event) => this.app.drawing.take(this, name, event));
    }
    this.navigateBySlide(this.viewer.navigator);
    new ResizeObserver(() => this.overlay.draw()).observe(this.element);
  }

  async show(number, place = null) {
    this.number = number;
    const about = await get(`${number}`);
    if (this.number !== number) return;
    this.about = about;
    this.images.clear();
    this.viewer.close();
    this.overlay.select(null);
    this.overlay.setCorrections([]);
    this.layers = layersOf(number, about);
    this.app.settingsFor(this);
    this.app.layersChanged(this); // nothing of the slide before stays in the panels
    const missing = about.slide.missing;
    this.title.replaceChildren(about.name, missing ? h("em", {}, missing) : "");
    if (about.slide.levels.length) await this.add({ source: slideSource(number, about), at: { x: 0, y: 0, width: 1 } }, 1);
    const begin = () => (place?.x != null && place?.y != null ? this.goTo(place, true) : this.viewer.viewport.goHome(true));
    begin();
    for (const layer of this.layers.filter((one) => !one.stem)) await this.add(layer);
    if (missing) begin(); // the first layer made the room
    this.moved();
    for (const layer of this.layers.filter((one) => one.stem)) this.addOutlines(layer, number);
    await this.loadCorrections();
  }

  // The small picture shows the slide alone; without a slide, the first layer.
  navigateBySlide(navigator) {
    const add = navigator.addTiledImage.bind(navigator);
    navigator.addTiledImage = (options) => {
      if (!this.viewer.world.getItemCount()) add(options);
    };
  }

  async addOutlines(layer, number) {
    layer.isReading = true;
    const isWanted = () => this.number === number;
    try {
      const found = await objectsReady(number, layer.stem, isWanted);
      if (!found) return;
      layer.isReading = false;
      layer.classes = found.classes;
      layer.count = found.count;
      layer.measurements = found.measurements;
      await this.add(layer);
    } catch (error) {
      layer.trouble = error.message;
    }
    this.app.layersChanged(this);
  }

  add(layer, opacity = layer.settings.visible ? layer.settings.opacity : 0) {
    const number = this.number;
    return new Promise((resolve) => {
      this.viewer.addTiledImage({
        tileSource: layer.source,
        ...layer.at,
        opacity,
        success: ({ item }) => {
          if (layer.key && this.number === number) this.images.set(layer.key, item);
          resolve(item);
        },
        error: () => resolve(null),
      });
    });
  }

  // Settings of a layer were changed; `isColored` if other pictures are needed for them.
  update(layer, { isColored = false } = {}) {
    const image = this.images.get(layer.key);
    if (!image) return;
    image.setOpacity(layer.settings.visible ? layer.settings.opacity : 0);
    if (isColored) image.reset();
    this.viewer.forceRedraw();
  }

  async loadCorrections() {
    const number = this.number;
    const listed = await get(`${number}/corrections`).catch(() => []);
    if (this.number !== number) return;
    this.corrections = listed;
    this.overlay.setCorrections(listed);
    this.app.correctionsChanged(this);
  }

  // Screen pixels per slide pixel, and where the slide's corner is on the screen.
  frame() {
    if (!this.about || !this.viewer.world.getItemCount()) return null;
    const { viewport } = this.viewer;
    const corner = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
    const width = viewport.getZoom(true) * viewport.getContainerSize().x;
    return { scale: width / this.about.size[0], x: corner.x, y: corner.y };
  }

  moved() {
    const frame = this.frame();
    if (!frame) return;
    this.keepFine(frame.scale);
    this.overlay.draw();
    this.scale.show(this.about.mpp[0] / frame.scale);
    this.app.moved(this);
  }

  // Outlines far too coarse, as wide as what they enclose, are not even drawn while finer ones load.
  keepFine(scale) {
    for (const layer of this.layers) {
      if (!layer.stem) continue;
      const image = this.images.get(layer.key);
      if (!image) continue;
      const { source } = image;
      const finest = layer.source.width / this.about.size[0]; // tile pixels per slide pixel
      const wanted = Math.ceil(layer.source.maxLevel + Math.log2((scale * devicePixelRatio) / finest));
      source.minLevel = Math.min(Math.max(0, wanted - 1), source.maxLevel);
      image.savedCutOffLevel = source.minLevel; // else one coarse tile is drawn under all
    }
  }

  // Middle in slide pixels, and µm per screen pixel.
  place() {
    const { viewport } = this.viewer;
    const centre = viewport.getCenter(false);
    const width = viewport.getZoom(false) * viewport.getContainerSize().x;
    const [pixels] = this.about.size;
    return { x: centre.x * pixels, y: centre.y * pixels, zoom: (this.about.mpp[0] * pixels) / width };
  }

  goTo({ x, y, zoom }, immediately = false) {
    const { viewport } = this.viewer;
    const [pixels] = this.about.size;
    if (zoom) {
      const wanted = (this.about.mpp[0] * pixels) / (zoom * viewport.getContainerSize().x);
      viewport.zoomTo(wanted, null, immediately);
    }
    if (x != null && y != null) viewport.panTo(new OpenSeadragon.Point(x / pixels, y / pixels), immediately);
    if (immediately) viewport.applyConstraints(true);
  }

  // Brings a box (slide pixels) into view with some room around it.
  fit([x0, y0, x1, y1]) {
    const size = this.viewer.viewport.getContainerSize();
    const needed = Math.max((x1 - x0) / size.x, (y1 - y0) / size.y) * this.about.mpp[0] * 2.5;
    this.goTo({ x: (x0 + x1) / 2, y: (y0 + y1) / 2, zoom: Math.max(needed, this.about.mpp[0] / 2) });
  }

  slidePoint(position) {
    const point = this.viewer.viewport.pointFromPixel(position);
    return [point.x * this.about.size[0], point.y * this.about.size[0]];
  }

  clicked(event) {
    this.app.activate(this);
    if (!event.quick || this.app.drawing.isOn || !this.about) return;
    this.app.inspect(this, ...this.slidePoint(event.position));
  }

  close() {
    this.number = null;
    this.viewer.destroy();
    this.element.remove();
  }
}
