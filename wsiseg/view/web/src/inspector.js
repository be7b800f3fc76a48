import { get, post, remove } from "./api.js";
import { h, say, swatch } from "./dom.js";
import { MARKS } from "./overlay.js";
import { measured, percent } from "./text.js";

// The object under the last click, what is measured there, and what a person says of it.
export class Inspector {
  constructor(app) {
    this.app = app;
    this.object = null;
    this.element = h("section", { class: "inspector" });
    this.fill();
  }

  async inspect(pane, x, y) {
    const asked = (this.asked = {});
    const found = await get(`${pane.number}/at?x=${x.toFixed(2)}&y=${y.toFixed(2)}`).catch((error) => say(error.message, { failed: true }));
    if (!found || asked !== this.asked) return;
    this.show(pane, found.object, found);
  }

  async select(pane, row) {
    const object = await get(`${pane.number}/object/${row}`);
    this.show(pane, object, null);
  }

  show(pane, object, found) {
    this.pane = pane;
    this.object = object;
    this.found = found;
    for (const other of this.app.panes) other.overlay?.select(other === pane ? object : null);
    this.fill();
    this.app.review.mark();
  }

  clear() {
    this.asked = null;
    this.object = null;
    this.found = null;
    this.pane?.overlay.select(null);
    this.fill();
    this.app.review.mark();
  }

  get correction() {
    return this.object && this.pane.corrections?.find((one) => one.id === this.object.id);
  }

  fill() {
    const parts = [h("h2", {}, "Object")];
    if (!this.object && !this.found) parts.push(h("p", { class: "muted" }, "Click on the slide to see what is measured there."));
    if (this.found && !this.object) parts.push(h("p", { class: "muted" }, "No object here."));
    if (this.object) parts.push(...this.aboutObject());
    if (this.found) parts.push(...this.aboutPlace());
    parts.push(this.addRow());
    this.element.replaceChildren(...parts.filter(Boolean));
  }

  *aboutObject() {
    const { object, correction } = this;
    yield h("p", { class: "object" }, swatch(this.colorOf(object.class)), h("b", { title: object.class }, object.class ?? "no class"));
    yield table(Object.entries(object.measurements).map(([name, value]) => measured(name, value)));
    yield this.actions();
    if (correction) {
      const { action, was } = correction;
      const text = was && was !== correction.class ? `${action}: ${was} → ${correction.class}` : action;
      yield h(
        "p",
        { class: "correction" },
        h("span", { class: `mark ${action}` }, MARKS[action].sign),
        text,
        h("button", { class: "link", onclick: () => this.takeBack(correction.id) }, "undo"),
      );
    }
  }

  *aboutPlace() {
    const { values, tissue } = this.found;
    const lines = values.map((one) => [
      one.kind === "uncertainty" ? `Uncertainty: ${one.title}` : one.text === undefined ? `P(${one.title})` : "Mask",
      one.text ?? (one.value === null ? "no data" : percent(one.value)),
    ]);
    if (tissue !== null) lines.push(["Tissue", tissue ? "yes" : "no"]);
    yield h("h3", {}, "At this place");
    yield table(lines);
  }

  actions() {
    const others = this.pane.about.classes.slice(1).filter((known) => known.name !== this.object.class);
    const reclass = h(
      "select",
      { "aria-label": "Other class", onchange: () => reclass.value && this.say("reclassified", { class: reclass.value }) },
      h("option", { value: "" }, "Other class …"),
      others.map((known) => h("option", { value: known.name }, known.name)),
    );
    return h(
      "div",
      { class: "actions" },
      h("button", { class: "accept", title: "A", onclick: () => this.say("accepted") }, "✓ Accept"),
      h("button", { class: "reject", title: "R", onclick: () => this.say("rejected") }, "✕ Reject"),
      h("button", { title: "D", onclick: () => this.redraw() }, "✎ Redraw"),
      others.length ? reclass : null,
    );
  }

  addRow() {
    const classes = this.app.active?.about?.classes?.slice(1) ?? [];
    if (!classes.length) return null;
    const choice = h("select", { "aria-label": "Class of a new region" }, classes.map((known) => h("option", { value: known.name }, known.name)));
    const begin = () => this.add(choice.value);
    this.begin = begin;
    return h("div", { class: "row add" }, h("button", { title: "N", onclick: begin }, "+ New region"), classes.length > 1 ? choice : null);
  }

  colorOf(name) {
    return this.pane.about.classes.find((known) => known.name === name)?.color ?? [64, 64, 64];
  }

  async say(action, more = {}) {
    if (!this.object) return say("Click on an object first.");
    await this.send(this.pane, { action, row: this.object.row, ...more });
  }

  redraw() {
    if (!this.object) return say("Click on an object first.");
    const { pane, object } = this;
    this.app.drawing.begin(pane, (ring) => this.send(pane, { action: "redrawn", row: object.row, ring }));
  }

  add(name) {
    const pane = this.app.active;
    this.app.drawing.begin(pane, (ring) => this.send(pane, { action: "added", class: name, ring }));
  }

  async send(pane, correction) {
    try {
      await post(`${pane.number}/corrections`, correction);
      await pane.loadCorrections();
      say(`${correction.action}, saved in ${pane.about.corrections}`);
    } catch (error) {
      say(error.message, { failed: true });
    }
  }

  async takeBack(id, pane = this.pane) {
    try {
      await remove(`${pane.number}/corrections/${id}`);
      await pane.loadCorrections();
      say("taken back");
    } catch (error) {
      say(error.message, { failed: true });
    }
  }
}

function table(lines) {
  return h("dl", {}, lines.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
