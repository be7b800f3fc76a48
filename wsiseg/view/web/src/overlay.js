import { rgb } from "./dom.js";

// Marks of corrections: colours that any eyes tell apart, and a sign each.
export const MARKS = {
  accepted: { color: [0, 114, 178], sign: "✓" },
  rejected: { color: [213, 94, 0], sign: "✕", dash: [7, 5] },
  reclassified: { color: [170, 68, 153], sign: "⇄" },
  redrawn: { color: [0, 128, 96], sign: "✎" },
  added: { color: [0, 128, 96], sign: "+" },
};

const SELECTED = [17, 24, 39];
const DRAWN = [0, 128, 96];

// A canvas over the slide: the selected object, corrections, the line being drawn.
export class Overlay {
  constructor(pane) {
    this.pane = pane;
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    this.selected = null;
    this.corrections = [];
    this.line = null;
  }

  select(object) {
    this.selected = object && ringsOf(object.geometry);
    this.draw();
  }

  // The line of a correction lies in the middle of a selection's, which is wider then.
  isCorrected() {
    return Boolean(this.pane.app.inspector.correction);
  }

  setCorrections(corrections) {
    this.corrections = corrections.map((one) => ({
      ...MARKS[one.action],
      rings: ringsOf(one.geometry),
      at: topOf(one.geometry),
    }));
    this.draw();
  }

  draw() {
    const { canvas, pane } = this;
    const frame = pane.frame();
    const density = window.devicePixelRatio || 1;
    const size = [Math.round(canvas.clientWidth * density), Math.round(canvas.clientHeight * density)];
    if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
    const context = canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, ...size);
    if (!frame) return;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.lineJoin = "round";
    const place = { ...frame, width: canvas.clientWidth, height: canvas.clientHeight };
    if (this.selected) stroke(context, pathOf(this.selected, place), SELECTED, this.isCorrected() ? 6 : 2);
    for (const mark of this.corrections) {
      stroke(context, pathOf(mark.rings, place), mark.color, 2.5, mark.dash);
      badge(context, mark, mark.at[0] * place.scale + place.x, mark.at[1] * place.scale + place.y);
    }
    if (this.line) stroke(context, pathOf([this.line], place), DRAWN, 2);
  }
}

// The part of rings that is on the screen, without vertices that fall into one pixel.
function pathOf(rings, { scale, x, y, width, height }) {
  const path = new Path2D();
  for (const ring of rings) {
    let [lastX, lastY, isOpen] = [NaN, NaN, false];
    for (let i = 0; i < ring.length; i++) {
      const atX = ring[i][0] * scale + x;
      const atY = ring[i][1] * scale + y;
      if (i && i < ring.length - 1 && Math.abs(atX - lastX) < 1 && Math.abs(atY - lastY) < 1) continue;
      const isSeen =
        Math.max(atX, lastX) >= -9 && Math.min(atX, lastX) <= width + 9 && Math.max(atY, lastY) >= -9 && Math.min(atY, lastY) <= height + 9;
      if (isSeen) {
        if (!isOpen) path.moveTo(lastX, lastY);
        path.lineTo(atX, atY);
      }
      isOpen = isSeen;
      [lastX, lastY] = [atX, atY];
    }
  }
  return path;
}

function stroke(context, path, color, width, dash = []) {
  context.setLineDash([]);
  context.lineWidth = width * 2.4;
  context.strokeStyle = "rgb(255 255 255 / 0.85)";
  context.stroke(path);
  context.setLineDash(dash);
  context.lineWidth = width;
  context.strokeStyle = rgb(color);
  context.stroke(path);
}

function badge(context, { color, sign }, x, y) {
  context.setLineDash([]);
  context.beginPath();
  context.arc(x, y, 9, 0, 2 * Math.PI);
  context.fillStyle = rgb(color);
  context.fill();
  context.lineWidth = 1.5;
  context.strokeStyle = "white";
  context.stroke();
  context.fillStyle = "white";
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(sign, x, y + 0.5);
}

const partsOf = ({ type, coordinates }) => (type === "Polygon" ? [coordinates] : coordinates);

const ringsOf = (geometry) => partsOf(geometry).flat();

// The topmost vertex: it lies on the outline, whatever its shape.
function topOf(geometry) {
  const ring = partsOf(geometry)[0][0];
  return ring.reduce((best, point) => (point[1] < best[1] ? point : best));
}
