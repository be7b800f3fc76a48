import { address } from "./api.js";
import { byId, h } from "./dom.js";
import { nameOf } from "./place.js";
import { figure, title } from "./text.js";

const PREFERRED = /_mm2$|objects|uncertainty|entropy/;

// The slides with small pictures, sorted by any column of the summary.
export class SlideList {
  constructor(app) {
    this.app = app;
    const { columns } = app.listed;
    this.search = h("input", { type: "search", placeholder: "Find a slide", "aria-label": "Find a slide", oninput: () => this.fill() });
    this.by = h(
      "select",
      { "aria-label": "Sort by", onchange: () => this.fill() },
      h("option", { value: "" }, "Name"),
      columns.map((name) => h("option", { value: name }, title(name))),
    );
    const preferred = columns.find((name) => PREFERRED.test(name) && name !== "tissue_mm2");
    this.shown = preferred ?? "";
    this.isFalling = false;
    this.turn = h("button", { class: "icon", title: "Other way round", onclick: () => this.turnRound() }, "↑");
    this.items = h("ol");
    this.count = h("p", { class: "muted" });
    byId("list").append(
      h("h1", {}, "wsiseg"),
      this.count,
      this.search,
      h("div", { class: "row" }, h("label", { class: "muted" }, "Sort"), this.by, this.turn),
      this.items,
    );
    this.fill();
  }

  turnRound() {
    this.isFalling = !this.isFalling;
    this.turn.textContent = this.isFalling ? "↓" : "↑";
    this.fill();
  }

  get order() {
    const text = this.search.value.trim().toLowerCase();
    const column = this.by.value;
    const found = this.app.listed.results.filter((one) => nameOf(one).toLowerCase().includes(text));
    const value = (one) => (column ? one.summary[column] : one.name);
    found.sort((a, b) => compare(value(a), value(b)) || compare(a.name, b.name));
    return this.isFalling ? found.reverse() : found;
  }

  fill() {
    const column = this.by.value || this.shown;
    const groups = new Set(this.app.listed.results.map((one) => one.group)).size > 1;
    const order = this.order;
    this.count.textContent = `${order.length} of ${this.app.listed.results.length} slides`;
    this.items.replaceChildren(
      ...order.map((one) =>
        h(
          "li",
          {},
          h(
            "button",
            { class: "slide", "data-number": String(one.number), onclick: () => this.app.open(one.number) },
            h("img", { src: address(`${one.number}/thumbnail`, { v: one.stamp }), loading: "lazy", alt: "", onerror: (e) => e.target.classList.add("gone") }),
            h(
              "span",
              {},
              h("b", {}, one.name),
              groups ? h("small", {}, one.group) : null,
              h("small", {}, one.trouble ?? (one.summary[column] === undefined ? "" : `${title(column)} ${figure(one.summary[column])}`)),
            ),
          ),
        ),
      ),
    );
    this.mark();
  }

  mark() {
    for (const button of this.items.querySelectorAll("button.slide")) {
      const isShown = Number(button.dataset.number) === this.app.main.number;
      button.classList.toggle("shown", isShown);
      button.setAttribute("aria-current", String(isShown));
      if (isShown) button.scrollIntoView({ block: "nearest" });
    }
  }

  // Opens the slide that many places further down the list.
  step(by) {
    const order = this.order;
    const at = order.findIndex((one) => one.number === this.app.main.number);
    const next = order[at + by];
    if (next) this.app.open(next.number);
  }
}

// Numbers by size, texts by language, nothing last.
function compare(a, b) {
  const none = (value) => value === undefined || value === null || value === "";
  if (none(a) || none(b)) return none(a) - none(b);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}
