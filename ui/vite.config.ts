import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type Plugin } from "vite";

const PARTS = ["index.html", "package-lock.json", "public", "src", "vite.config.ts"];

/** A hash of everything the page is built from: the Python tests recompute it, and notice a page that was not rebuilt. */
function sourceHash(): string {
  const files = PARTS.flatMap((part) =>
    part.includes(".")
      ? [part]
      : readdirSync(part, { recursive: true, withFileTypes: true })
          .filter((entry) => entry.isFile())
          .map((entry) => join(entry.parentPath, entry.name)),
  );
  const hash = createHash("sha256");
  for (const file of files.filter((name) => !name.includes(".test.")).sort()) {
    hash.update(`${file}\n`).update(readFileSync(file)).update("\n");
  }
  return hash.digest("hex");
}

const source: Plugin = {
  name: "source-hash",
  generateBundle() {
    this.emitFile({ type: "asset", fileName: "source.txt", source: `${sourceHash()}\n` });
  },
};

// The built page is part of the Python package: people who install that never need Node. Names carry a hash of the
// content, so that browsers may keep the files for ever; nothing is inlined, because the server's policy forbids it.
export default defineConfig({
  base: "./",
  plugins: [source],
  esbuild: { jsx: "automatic", jsxImportSource: "preact" },
  build: {
    outDir: "../src/steersman/serve/static",
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
  },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
});
