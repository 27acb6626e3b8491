import { defineConfig } from "vite";

// The built page is part of the Python package: people who install that never need Node. Names carry a hash of the
// content, so that browsers may keep the files for ever; nothing is inlined, because the server's policy forbids it.
export default defineConfig({
  base: "./",
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
