import { signal } from "@preact/signals";
import { type JSX, render } from "preact";
import { useEffect } from "preact/hooks";
import { width } from "./charts/scale";
import { open } from "./data";
import { Compare } from "./panels/compare";
import { Extract } from "./panels/extract";
import { Export, History } from "./panels/keep";
import { Key } from "./panels/key";
import { Lab } from "./panels/lab";
import { Vectors } from "./panels/vectors";
import { keepRunning } from "./run";
import { fromHash, layerCount, locked, model, problem, restore, saved, toHash } from "./state";
import "./style.css";

const drawer = signal<"extract" | "export" | "history" | null>(null);
const copied = signal(false);

const THEME = "steersman.theme";
type Theme = "auto" | "light" | "dark";
const theme = signal<Theme>(kept());

function kept(): Theme {
  try {
    const found = localStorage.getItem(THEME);
    return found === "light" || found === "dark" ? found : "auto";
  } catch {
    return "auto";
  }
}

function setTheme(next: Theme): void {
  theme.value = next;
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(THEME, next);
  } catch {
    // a private window: it lasts as long as the page
  }
}

function Head(): JSX.Element {
  const name = model.value?.id;
  return (
    <header class="head">
      {!locked.value && <a class="skip" href="#prompt" onClick={(event) => { event.preventDefault(); document.querySelector<HTMLElement>(".prompt textarea")?.focus(); }}>Skip to the prompt</a>}
      <div class="brand">
        <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true"><path class="rest" d="M4 23h24" /><path class="turn" d="M4 23C14 23 15 9 28 9" /></svg>
        <h1>Steersman</h1>
        {name && <p>{name}{layerCount.value ? `, ${layerCount.value} layers` : ""}</p>}
      </div>
      <nav aria-label="Page">
        <button type="button" onClick={() => (drawer.value = "history")}>History</button>
        <button
          type="button"
          onClick={async () => {
            await navigator.clipboard.writeText(new URL(toHash(saved()), location.href).href);
            copied.value = true;
            setTimeout(() => (copied.value = false), 2000);
          }}
        >
          {copied.value ? "Link copied" : "Copy link"}
        </button>
        <button type="button" onClick={() => (drawer.value = "export")}>Export</button>
        <label>
          <span class="hidden">Colours</span>
          <select value={theme.value} onChange={(event) => setTheme(event.currentTarget.value as Theme)}>
            <option value="auto">System</option>
            <option value="light">Light</option>
            <option value="dark">Dark</option>
          </select>
        </label>
      </nav>
    </header>
  );
}

function App(): JSX.Element {
  useEffect(() => {
    document.documentElement.dataset.theme = theme.value;
    const narrow = matchMedia("(max-width: 600px)");
    const fit = () => (width.value = narrow.matches ? 370 : 640);
    narrow.addEventListener("change", fit);
    fit();
    void open(keepRunning);
    const changed = () => {
      if (location.hash === toHash(saved())) return;
      const state = fromHash(location.hash);
      if (state) restore(state);
    };
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  const close = () => (drawer.value = null);
  return (
    <>
      <Head />
      <main>
        {problem.value && <p class="problem" role="alert">{problem.value}</p>}
        {locked.value ? <Key then={() => void open(keepRunning)} /> : (
          <>
            <Vectors extract={() => (drawer.value = "extract")} />
            <Compare />
            <Lab />
          </>
        )}
      </main>
      {drawer.value === "extract" && <Extract close={close} />}
      {drawer.value === "export" && <Export close={close} />}
      {drawer.value === "history" && <History close={close} />}
    </>
  );
}

render(<App />, document.getElementById("app")!);
