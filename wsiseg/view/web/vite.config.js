import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { defineConfig } from "vite";

// The licences of what is bundled, beside it.
function licences() {
  return {
    name: "licences",
    generateBundle(_, bundle) {
      const inside = Object.values(bundle).flatMap((chunk) => Object.keys(chunk.modules ?? {}));
      const names = new Set(inside.map((path) => path.match(/node_modules\/((?:@[^/]+\/)?[^/]+)/)?.[1]));
      names.delete(undefined);
      const source = [...names].sort().map(licenceOf).join("\n\n");
      this.emitFile({ type: "asset", fileName: "LICENCES.txt", source });
    },
  };
}

function licenceOf(name) {
  const folder = join("node_modules", name);
  const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const packed = readdirSync(folder).find((one) => /^licen[cs]e/i.test(one));
  const own = join("licences", `${name.replace("/", "+")}.txt`); // of packages that come without theirs
  const text = readFileSync(packed ? join(folder, packed) : own, "utf8");
  return `${name} ${version}: ${license}\n\n${text.trim()}`;
}

export default defineConfig({
  base: "./", // the page lies under a token that is another one each time
  plugins: [licences()],
  build: {
    outDir: "../static",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the content security policy wants files
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 4000,
  },
});
