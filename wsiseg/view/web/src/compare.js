import { byId, h } from "./dom.js";
import { Pane } from "./pane.js";
import { nameOf } from "./place.js";

// A second result beside the first, moved and zoomed with it.
export class Compare {
  constructor(app) {
    this.app = app;
    this.pane = null;
    this.leader = app.main;
    this.choice = h("select", { "aria-label": "Compare with", onchange: () => this.choose(this.choice.value) });
  }

  // What can stand beside the slide shown: other results of it first, then all others.
  renew() {
    const { listed, main } = this.app;
    const own = listed.results[main.number];
    const others = listed.results.filter((one) => one.kind === "slide" && one !== own);
    const same = (one) => one.name === own?.name || one.summary.slide === own?.summary.slide;
    others.sort((a, b) => (a.group === own?.group) - (b.group === own?.group)); // other runs first
    const option = (one, text) => h("option", { value: String(one.number) }, text ?? nameOf(one));
    this.choice.replaceChildren(
      h("option", { value: "" }, "Compare with …"),
      own ? option(own, "this result, other layers") : "",
      ...others.filter(same).map((one) => option(one)),
      ...others.filter((one) => !same(one)).map((one) => option(one)),
    );
    this.choice.hidden = own?.kind !== "slide";
    this.choice.value = this.pane ? String(this.pane.number) : "";
  }

  toggle() {
    if (this.pane) return this.close();
    this.renew(); // the slide may still be loading
    const options = [...this.choice.options].slice(1);
    if (options.length) this.choose((options[1] ?? options[0]).value);
  }

  async choose(value) {
    if (value === "") return this.close();
    if (!this.pane) {
      this.pane = new Pane(this.app);
      byId("panes").append(this.pane.element);
      this.pane.start();
      this.app.panes = [this.app.main, this.pane];
    }
    await this.pane.show(Number(value), this.app.main.place());
    this.lead(this.app.main);
    this.follow(this.app.main); // which is smaller now
    this.renew();
    this.app.settled(this.app.main);
  }

  close() {
    if (!this.pane) return;
    this.app.panes = [this.app.main];
    this.leader = this.app.main;
    this.app.activate(this.app.main);
    this.pane.close();
    this.pane = null;
    this.renew();
    this.app.settled(this.app.main);
  }

  // The pane that a person moves: the other one follows, and does not pull it back.
  lead(pane) {
    this.leader = pane;
  }

  // One pane was moved: the other follows, by place in µm and µm per pixel.
  follow(pane) {
    if (!this.pane?.about || pane !== this.leader) return;
    const other = pane === this.pane ? this.app.main : this.pane;
    if (!other.about) return;
    const { viewport } = pane.viewer;
    const centre = viewport.getCenter(true);
    const width = viewport.getZoom(true) * viewport.getContainerSize().x;
    const ratio = pane.about.mpp[0] / other.about.mpp[0];
    const pixels = pane.about.size[0];
    other.goTo({ x: centre.x * pixels * ratio, y: centre.y * pixels * ratio, zoom: (pane.about.mpp[0] * pixels) / width }, true);
  }
}
