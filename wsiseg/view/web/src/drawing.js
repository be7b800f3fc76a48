import { say } from "./dom.js";

const LEAST_STEP = 3; // screen pixels between two vertices

// Drawing an outline by dragging; zooming goes on working meanwhile.
export class Drawing {
  constructor() {
    this.isOn = false;
    this.done = null;
    this.points = null;
  }

  // `done` is called with the ring in slide pixels.
  begin(pane, done) {
    this.isOn = true;
    this.pane = pane;
    this.done = done;
    pane.element.classList.add("drawing");
    say("Draw the outline by dragging; Esc cancels.");
  }

  stop() {
    if (!this.isOn) return;
    this.isOn = false;
    this.points = null;
    this.pane.element.classList.remove("drawing");
    this.pane.overlay.line = null;
    this.pane.overlay.draw();
  }

  take(pane, name, event) {
    if (!this.isOn || pane !== this.pane) return;
    event.preventDefaultAction = true;
    if (name === "canvas-press") {
      this.points = [pane.slidePoint(event.position)];
      this.last = event.position;
    } else if (name === "canvas-drag" && this.points) {
      if (Math.hypot(event.position.x - this.last.x, event.position.y - this.last.y) < LEAST_STEP) return;
      this.last = event.position;
      this.points.push(pane.slidePoint(event.position));
      pane.overlay.line = this.points;
      pane.overlay.draw();
    } else if (name === "canvas-release" && this.points) {
      const ring = this.points;
      this.points = null;
      if (ring.length < 4) return;
      const { done } = this;
      this.stop();
      done(ring);
    }
  }
}
