import { get } from "./api.js";
import { h, say } from "./dom.js";
import { MARKS } from "./overlay.js";
import { measured, figure, title } from "./text.js";

const AREA = /area/i;

// Objects in the order of a measurement, to be looked at one after the other (J and K).
export class Review {
  constructor(app) {
    this.app = app;
    this.listed = [];
    this.items = h("ol", { class: "objects" });
    this.by = h("select", { "aria-label": "Order of objects", onchange: () => this.load() });
    this.turn = h("button", { class: "icon", title: "Other way round", onclick: () => this.turnRound() }, "↓");
    this.done = h("p", { class: "muted" });
    this.element = h(
      "section",
      { class: "review" },
      h("h2", {}, "Review"),
      this.done,
      h("div", { class: "row" }, this.by, this.turn),
      this.items,
    );
    this.isFalling = true;
  }

  // The active pane has other objects now.
  renew() {
    const layer = this.app.active.layers?.find((one) => one.stem === "annotations");
    const names = layer?.measurements;
    this.element.hidden = !names;
    if (!names || this.names === names) return;
    this.names = names;
    this.by.replaceChildren(h("option", { value: "" }, "Size"), ...names.map((name) => h("option", { value: name }, title(name))));
    this.by.value = names.find((name) => AREA.test(name)) ?? "";
    this.load();
  }

  turnRound() {
    this.isFalling = !this.isFalling;
    this.turn.textContent = this.isFalling ? "↓" : "↑";
    this.load();
  }

  async load() {
    const pane = this.app.active;
    const query = new URLSearchParams({ order: this.isFalling ? "descending" : "ascending" });
    if (this.by.value) query.set("by", this.by.value);
    const found = await get(`${pane.number}/objects/annotations?${query}`).catch((error) => say(error.message, { failed: true }));
    if (!found || pane !== this.app.active) return;
    this.listed = found.listed;
    const value = (one) => (this.by.value ? measured(this.by.value, one.measurements[this.by.value])[1] : figure(one.bounds[2] - one.bounds[0]) + " px");
    this.items.replaceChildren(
      ...this.listed.map((one, at) =>
        h("li", {}, h("button", { "data-id": one.id, onclick: () => this.go(at) }, h("i", { class: "mark" }), h("span", {}, one.class ?? "no class"), h("small", {}, value(one)))),
      ),
    );
    this.mark();
  }

  step(by) {
    const at = this.listed.findIndex((one) => one.row === this.app.inspector.object?.row);
    const next = at < 0 ? 0 : at + by;
    if (this.listed[next]) this.go(next);
  }

  async go(at) {
    const one = this.listed[at];
    this.app.active.fit(one.bounds);
    await this.app.inspector.select(this.app.active, one.row);
  }

  // Scrolls the list alone: what else is on that side stays where it is.
  reveal(button) {
    const [list, own] = [this.items.getBoundingClientRect(), button.getBoundingClientRect()];
    if (own.top < list.top) this.items.scrollTop += own.top - list.top;
    else if (own.bottom > list.bottom) this.items.scrollTop += own.bottom - list.bottom;
  }

  mark() {
    const corrections = this.app.active?.corrections ?? [];
    const actions = new Map(corrections.map((one) => [one.id, one.action]));
    this.done.textContent = corrections.length ? `${corrections.length} corrected` : "nothing corrected yet";
    for (const button of this.items.querySelectorAll("button")) {
      const action = actions.get(button.dataset.id);
      const isSelected = button.dataset.id === this.app.inspector.object?.id;
      const sign = button.firstChild;
      sign.className = action ? `mark ${action}` : "mark";
      sign.textContent = action ? MARKS[action].sign : "";
      button.classList.toggle("shown", isSelected);
      if (isSelected) this.reveal(button);
    }
  }
}
