import { address } from "./api.js";

export const COLOR_MAPS = ["viridis", "cividis", "magma", "inferno", "turbo"];
const MAP_OF = { heatmap: "viridis", uncertainty: "magma" };

// What can be laid over a slide, from below to above, and how it is shown at first.
export function layersOf(number, about) {
  const layers = about.layers.map((layer, index) => rasterLayer(number, about, layer, index));
  if (about.tissue) layers.push(outlineLayer(number, about, "tissue", "Tissue"));
  if (about.objects) layers.push(outlineLayer(number, about, "annotations", "Outlines"));
  return layers;
}

function rasterLayer(number, about, layer, index) {
  const settings = { visible: false, opacity: layer.kind === "mask" ? 0.4 : 0.55 };
  if (layer.kind === "mask") settings.hidden = new Set();
  else Object.assign(settings, { map: MAP_OF[layer.kind], least: layer.kind === "heatmap" ? 10 : 0 });
  const [left, top, right] = layer.place;
  const shown = {
    key: `${layer.kind}:${layer.title}`,
    kind: layer.kind,
    title: layer.title,
    classes: layer.classes,
    settings,
    at: { x: left / about.size[0], y: top / about.size[0], width: (right - left) / about.size[0] },
  };
  shown.source = {
    width: layer.size[0],
    height: layer.size[1],
    tileSize: about.tile,
    minLevel: 0,
    maxLevel: layer.levels - 1,
    getTileUrl: (level, x, y) =>
      address(`${number}/layer/${index}/${level}/${y}/${x}`, { v: about.stamp, ...queryOf(settings) }),
  };
  return shown;
}

function outlineLayer(number, about, stem, title) {
  const settings = { visible: stem === "annotations", opacity: 1, hidden: new Set() };
  return {
    key: `outlines:${stem}`,
    kind: stem,
    stem,
    title,
    classes: [],
    settings,
    at: { x: 0, y: 0, width: 1 },
    source: {
      width: about.outlines.size[0],
      height: about.outlines.size[1],
      tileSize: about.tile,
      minLevel: 0,
      maxLevel: about.outlines.levels - 1,
      getTileUrl: (level, x, y) =>
        address(`${number}/outlines/${stem}/${level}/${y}/${x}`, { v: about.stamp, ...queryOf(settings) }),
    },
  };
}

function queryOf({ map, least, hidden }) {
  const query = {};
  if (map) query.map = map;
  if (least) query.least = least;
  if (hidden?.size) query.hide = [...hidden].sort((a, b) => a - b).join(",");
  return query;
}

// The slide itself, at the true downsample of each level.
export function slideSource(number, about) {
  const levels = about.slide.levels;
  return {
    width: about.size[0],
    height: about.size[1],
    tileSize: about.tile,
    minLevel: 0,
    maxLevel: levels.length - 1,
    getLevelScale: (level) => 1 / levels[level][2],
    getNumTiles: (level) => ({
      x: Math.ceil(levels[level][0] / about.tile),
      y: Math.ceil(levels[level][1] / about.tile),
    }),
    getTileUrl: (level, x, y) => address(`${number}/slide/${level}/${y}/${x}`, { v: about.stamp }),
  };
}
