import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { getBlob, type Job, post, postBlob, postText, save } from "../api";
import { watch } from "../data";
import { inputOf, steeringOf } from "../run";
import { forget, fromHash, history, jobs, model, restore, settings, sides, steering } from "../state";
import { Dialog, Progress } from "./dialog";

const TEXTS = { python: ["Python", "steer.py"], cli: ["Command line", "steer.sh"], curl: ["curl", "steer-curl.sh"], recipe: ["Recipe", "recipe.toml"] } as const;
type Form = keyof typeof TEXTS;

/** What is exported: the right column, or else the left one, if that steers and the right does not. */
function subject(): Record<string, unknown> {
  const side = [sides.value[1], sides.value[0]].find((one) => one.kind !== "plain" && one.kind !== "system") ?? { kind: "plan" as const };
  const input = inputOf(side, 1);
  const { max_tokens, temperature, seed } = settings.value;
  const asked = "prompt" in input ? { text: input.prompt } : input;
  const steered = side.kind === "preset" ? { model: `${model.value?.id}:${side.name}` } : { steering: steeringOf(side) };
  return { ...asked, ...steered, max_tokens, ...(temperature > 0 ? { temperature, seed } : {}) };
}

/** Names of the vectors that an export is about. */
const named = (): string[] => [...new Set((steering.value?.interventions ?? []).map((one) => String(one.vector)))];

/** Take what the sliders say out of the page. */
export function Export({ close }: { close: () => void }): JSX.Element {
  const [form, setForm] = useState<Form>("python");
  const [written, setWritten] = useState({ form: "", text: "" });
  const text = written.form === form ? written.text : "";
  const [failed, setFailed] = useState<string | null>(null);
  const [copied, setCopied] = useState(false);
  const [name, setName] = useState("steered-model");
  const [job, setJob] = useState<string | null>(null);
  const [folder, setFolder] = useState<string | null>(null);
  const running = job ? jobs.value[job] : null;
  const said = (error: unknown) => setFailed(error instanceof Error ? error.message : String(error));

  useEffect(() => {
    setFailed(null);
    setCopied(false);
    postText("/v1/export", { format: form, ...subject() }).then((answer) => setWritten({ form, text: answer }), said);
  }, [form]);

  const file = async (format: string, called: string) => {
    setFailed(null);
    try {
      save(called, await postBlob("/v1/export", { format, ...subject() }));
    } catch (error) {
      said(error);
    }
  };
  const bake = async () => {
    setFailed(null);
    setFolder(null);
    try {
      const { steering: asked, model: preset } = subject() as { steering?: unknown; model?: string };
      const found = await post<Job>("/v1/checkpoints", { name, steering: asked ?? preset?.split(":")[1] });
      setJob(found.id);
      watch(found, (ended) => {
        setJob(null);
        if (ended.status === "succeeded") setFolder(String(ended.result?.folder));
        else setFailed(ended.error?.message ?? "it was cancelled");
      });
    } catch (error) {
      said(error);
    }
  };

  return (
    <Dialog drawer title="Export" close={close} lead="Everything the right column does, to keep and to use elsewhere.">
      <div class="choices" role="group" aria-label="Code and commands">
        {(Object.keys(TEXTS) as Form[]).map((one) => <button key={one} type="button" aria-pressed={form === one} onClick={() => setForm(one)}>{TEXTS[one][0]}</button>)}
      </div>
      <pre class="code" tabIndex={0} aria-label={TEXTS[form][0]} data-format={form}><code>{text}</code></pre>
      <div class="row">
        <button type="button" class="primary" disabled={!text} onClick={async () => { await navigator.clipboard.writeText(text); setCopied(true); }}>{copied ? "Copied" : "Copy"}</button>
        <button type="button" disabled={!text} onClick={() => save(TEXTS[form][1], text)}>Save</button>
      </div>
      {failed && <p class="warn" role="alert">{failed}</p>}
      <h3>Files</h3>
      <ul class="files">
        {named().map((one) => (
          <li key={one}><button type="button" data-file={`vector:${one}`} onClick={async () => save(`${one}.safetensors`, await getBlob(`/v1/vectors/${encodeURIComponent(one)}/file`))}>{`${one}.safetensors`}</button><span>the vector; the code above loads it</span></li>
        ))}
        <li><button type="button" data-file="safetensors" onClick={() => file("safetensors", "plan.safetensors")}>plan.safetensors</button><span>the whole plan, with all its vectors</span></li>
        <li><button type="button" data-file="gguf" onClick={() => file("gguf", "plan.gguf")}>plan.gguf</button><span>a control vector for llama.cpp</span></li>
        <li><button type="button" data-file="html" onClick={() => file("html", "report.html")}>report.html</button><span>what was measured, in one file to send; needs a sweep</span></li>
      </ul>
      <h3>An ordinary checkpoint</h3>
      <p class="soft">The steering baked into the weights, for programs that know nothing of steering. It is written into the server's folder and verified.</p>
      <form class="row" onSubmit={(event) => { event.preventDefault(); void bake(); }}>
        <label><span class="hidden">Name of the checkpoint</span><input type="text" required pattern="[A-Za-z0-9][A-Za-z0-9._\-]{0,127}" value={name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <button type="submit" data-file="checkpoint" disabled={!!running}>Bake</button>
      </form>
      {running && <Progress job={running} doing="writing" />}
      {folder && <p role="status">Written to <code>{folder}</code> in the server's folder.</p>}
    </Dialog>
  );
}

/** What was run before. */
export function History({ close }: { close: () => void }): JSX.Element {
  return (
    <Dialog drawer title="History" close={close} lead="Kept in this browser, and nowhere else.">
      {history.value.length === 0 && <p class="empty">Nothing yet. Whatever you run is listed here, and one press brings it back.</p>}
      <ol class="history">
        {history.value.map((one) => (
          <li key={one.hash}>
            <button
              type="button"
              onClick={() => {
                const state = fromHash(one.hash);
                if (state) restore(state);
                close();
              }}
            >
              <strong>{one.prompt}</strong>
              <span class="soft">{one.said}</span>
              <span>{one.texts[1]}</span>
              <time dateTime={new Date(one.when).toISOString()}>{new Date(one.when).toLocaleString()}</time>
            </button>
          </li>
        ))}
      </ol>
      {history.value.length > 0 && <button type="button" onClick={forget}>Forget all</button>}
    </Dialog>
  );
}
