import { byId, h } from "./dom.js";

// Every key, what it does, and the words for it: the help is made of the same table.
export function keyTable(app) {
  const toggle = (kind) => () => app.toggleKind(kind);
  const zoom = (um) => () => app.active.goTo({ zoom: um });
  return [
    ["Move and zoom", [
      [["ArrowLeft"], "move", () => app.pan(-1, 0)],
      [["ArrowRight"], "move", () => app.pan(1, 0)],
      [["ArrowUp"], "move, or next slice of a scan", () => app.pan(0, -1)],
      [["ArrowDown"], "move, or slice before", () => app.pan(0, 1)],
      [["+", "="], "zoom in", () => app.zoomBy(1.5)],
      [["-"], "zoom out", () => app.zoomBy(1 / 1.5)],
      [["0"], "whole slide", () => app.home()],
      [["1"], "4 µm/px (2.5×)", zoom(4)],
      [["2"], "2 µm/px (5×)", zoom(2)],
      [["3"], "1 µm/px (10×)", zoom(1)],
      [["4"], "0.5 µm/px (20×)", zoom(0.5)],
      [["5"], "0.25 µm/px (40×)", zoom(0.25)],
    ]],
    ["Layers", [
      [["o"], "outlines", toggle("annotations")],
      [["m"], "classes", toggle("mask")],
      [["h"], "heatmap", toggle("heatmap")],
      [["u"], "uncertainty", toggle("uncertainty")],
      [["t"], "tissue", toggle("tissue")],
      [["["], "less opaque", () => app.fade(-0.1)],
      [["]"], "more opaque", () => app.fade(0.1)],
      [[" "], "slide alone, while held", () => app.peek(true)],
    ]],
    ["Review", [
      [["j"], "next object", () => app.review.step(1)],
      [["k"], "object before", () => app.review.step(-1)],
      [["a"], "accept", () => app.inspector.say("accepted")],
      [["r"], "reject", () => app.inspector.say("rejected")],
      [["d"], "redraw", () => app.inspector.redraw()],
      [["n"], "new region", () => app.inspector.begin?.()],
      [["Escape"], "cancel, deselect", () => app.escape()],
    ]],
    ["Slides", [
      [["PageDown"], "next slide", () => app.list.step(1)],
      [["PageUp"], "slide before", () => app.list.step(-1)],
      [["c"], "compare", () => app.compare.toggle()],
      [["l"], "copy the link to this place", () => app.copyLink()],
      [["?"], "this help", () => app.help()],
    ]],
  ];
}

export function listen(app) {
  const table = keyTable(app);
  const actions = new Map(table.flatMap(([, keys]) => keys.flatMap(([names, , act]) => names.map((name) => [name, act]))));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    if (byId("help").open) return;
    const act = actions.get(event.key.length === 1 ? event.key.toLowerCase() : event.key);
    if (!act || (event.key === " " && event.repeat)) return;
    if (event.key === " " && event.target.closest("button, input")) event.target.blur();
    event.preventDefault();
    app.compare.lead(app.active);
    act();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") app.peek(false);
  });
  fillHelp(table);
}

function isTyping({ target, key }) {
  if (key === "Escape") return false;
  return target.matches("input[type=search], input[type=number], select, textarea");
}

function fillHelp(table) {
  const shown = (name) => ({ " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", PageDown: "Page ↓", PageUp: "Page ↑" })[name] ?? name.toUpperCase();
  byId("help").append(
    h("form", { method: "dialog" }, h("h2", {}, "Keys"), h("button", { class: "icon", "aria-label": "Close" }, "✕")),
    h(
      "div",
      { class: "columns" },
      table.map(([heading, keys]) => h("div", {}, h("h3", {}, heading), h("dl", {}, keys.flatMap(([names, text]) => [h("dt", {}, h("kbd", {}, shown(names[0]))), h("dd", {}, text)])))),
    ),
  );
}
