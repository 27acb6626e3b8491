import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { type Job, post, type Quality } from "../api";
import { ProbeCurve } from "../charts/lines";
import { analyse, refreshVectors, watch } from "../data";
import { EXTRACTION } from "../examples";
import { analyses, colour, describe, jobs, vectors } from "../state";
import { Dialog, Progress } from "./dialog";

const METHODS: Record<string, string> = {
  mean_difference: "difference of means (start here)",
  mean_centred: "mean, centred",
  pca: "first principal component of the differences",
  lda: "linear discriminant",
  logistic: "logistic regression",
  repeng_compatible: "as repeng does",
};

const lines = (text: string) => text.split("\n").map((line) => line.trim()).filter(Boolean);

interface ReadView {
  texts: { label: string; stretches: { text: string; read: boolean }[] }[];
}

/** Two columns from a file: JSON lines with positive and negative, or two columns of CSV. */
export function columnsOf(name: string, text: string): [string[], string[]] {
  const rows = lines(text);
  if (name.endsWith(".jsonl") || rows[0]?.startsWith("{")) {
    const found = rows.map((row) => JSON.parse(row));
    const plain = (key: string) => found.flatMap((one) => (typeof one[key] === "string" ? [one[key] as string] : []));
    return [plain("positive"), plain("negative")];
  }
  const cells = rows.map((row) => [...row.matchAll(/(?:^|[,\t])(?:"((?:[^"]|"")*)"|([^,\t]*))/g)].map((one) => one[1]?.replace(/""/g, '"') ?? one[2] ?? ""));
  const header = cells[0]?.map((cell) => cell.trim().toLowerCase()) ?? [];
  const [p, n] = header.includes("positive") && header.includes("negative") ? [header.indexOf("positive"), header.indexOf("negative")] : [0, 1];
  const body = header.includes("positive") ? cells.slice(1) : cells;
  const column = (i: number) => body.map((row) => row[i]?.trim() ?? "").filter(Boolean);
  return [column(p), column(n)];
}

/** The drawer in which directions are made. */
export function Extract({ close }: { close: () => void }): JSX.Element {
  const [name, setName] = useState("");
  const [positive, setPositive] = useState("");
  const [negative, setNegative] = useState("");
  const [method, setMethod] = useState("mean_difference");
  const [read, setRead] = useState("last");
  const [view, setView] = useState<ReadView | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const [job, setJob] = useState<string | null>(null);
  const [made, setMade] = useState<string | null>(null);
  const [left, right] = [lines(positive), lines(negative)];
  const running = job ? jobs.value[job] : null;

  useEffect(() => {
    if (!left.length || !right.length) return setView(null);
    const control = new AbortController();
    const timer = setTimeout(async () => {
      try {
        setView(await post<ReadView>("/v1/read", { positive: left.slice(0, 2), negative: right.slice(0, 2), read: asRead(read) }, control.signal));
        setFailed(null);
      } catch (error) {
        if (!control.signal.aborted) setFailed(error instanceof Error ? error.message : String(error));
      }
    }, 400);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [positive, negative, read]);

  const start = async () => {
    setFailed(null);
    setMade(null);
    try {
      const found = await post<Job>("/v1/extractions", { name: name.trim(), positive: left, negative: right, method, read: asRead(read) });
      setJob(found.id);
      watch(found, async (ended) => {
        setJob(null);
        if (ended.status !== "succeeded") return setFailed(ended.error?.message ?? "it was cancelled");
        await refreshVectors(ended.result?.vector);
        await analyse(ended.result?.vector);
        colour.value = ended.result?.vector;
        setMade(ended.result?.vector);
      });
    } catch (error) {
      setFailed(error instanceof Error ? error.message : String(error));
    }
  };

  const fill = (from: { name: string; positive: string[]; negative: string[] }) => {
    if (from.name) setName(from.name);
    setPositive(from.positive.join("\n"));
    setNegative(from.negative.join("\n"));
  };

  return (
    <Dialog drawer title="Make a direction" close={close} lead="Write texts of one kind on the left and of the opposite on the right, one a line. Let them differ in nothing else: what differs is what you get.">
      <form onSubmit={(event) => { event.preventDefault(); void start(); }}>
        <label class="wide"><span>Name</span><input type="text" required pattern="[A-Za-z0-9][A-Za-z0-9._\-]{0,127}" title="Letters, digits, dots, dashes" value={name} placeholder={EXTRACTION.name} onInput={(event) => setName(event.currentTarget.value)} /></label>
        <div class="two">
          <label><span>More of this <b class="count positive">{left.length}</b></span><textarea rows={7} required value={positive} placeholder={EXTRACTION.positive.join("\n")} onInput={(event) => setPositive(event.currentTarget.value)} /></label>
          <label><span>Less of this <b class="count negative">{right.length}</b></span><textarea rows={7} required value={negative} placeholder={EXTRACTION.negative.join("\n")} onInput={(event) => setNegative(event.currentTarget.value)} /></label>
        </div>
        <div class="row">
          <button type="button" class="small" onClick={() => fill(EXTRACTION)}>Fill in an example</button>
          <label class="small button">
            From a file
            <input type="file" class="hidden" accept=".jsonl,.csv,.tsv,.txt" onChange={async (event) => {
              const file = event.currentTarget.files?.[0];
              event.currentTarget.value = "";
              if (!file) return;
              try {
                const [more, less] = columnsOf(file.name, await file.text());
                fill({ name: name || file.name.replace(/\.[^.]*$/, "").replace(/[^A-Za-z0-9._-]+/g, "-"), positive: more, negative: less });
                if (!more.length || !less.length) setFailed("that file has no two columns: JSON lines with positive and negative, or CSV with two columns");
              } catch {
                setFailed("that file could not be read: JSON lines with positive and negative, or CSV with two columns");
              }
            }} />
          </label>
        </div>
        <div class="two">
          <label>
            <span>Method</span>
            <select value={method} onChange={(event) => setMethod(event.currentTarget.value)}>{Object.entries(METHODS).map(([key, text]) => <option key={key} value={key}>{text}</option>)}</select>
          </label>
          <label>
            <span>Read each text at</span>
            <select value={read} onChange={(event) => setRead(event.currentTarget.value)}>
              <option value="last">its last token</option>
              <option value="mean">the mean of its tokens</option>
              <option value="-2">its last token but one</option>
            </select>
          </label>
        </div>
        {view && (
          <div class="reads">
            <h3>What is read</h3>
            {view.texts.map((one, i) => (
              <p key={i} class={one.label}>
                {one.stretches.map((part, j) => (part.read ? <mark key={j}>{part.text}</mark> : <span key={j}>{part.text}</span>))}
              </p>
            ))}
          </div>
        )}
        {failed && <p class="warn" role="alert">{failed}</p>}
        {running && <Progress job={running} doing="reading" />}
        <footer>
          <button type="submit" class="primary" disabled={!!running}>Make it</button>
          {vectors.value.some((one) => one.name === name.trim()) && <span class="soft">It will take the place of the direction of that name.</span>}
        </footer>
      </form>
      {made && <Made name={made} close={close} />}
    </Dialog>
  );
}

const asRead = (read: string): string | number => (/^-?\d+$/.test(read) ? Number(read) : read);

/** How well a direction that was made tells examples apart that it has not seen. */
function Made({ name, close }: { name: string; close: () => void }): JSX.Element | null {
  const described = describe(name);
  if (!described) return null;
  const warnings = analyses.value[name]?.warnings ?? described.quality?.warnings ?? [];
  const curve = curveOf(described.quality);
  return (
    <section class="made" aria-live="polite">
      <h3>{name} is ready</h3>
      {warnings.map((warning) => <p key={warning} class="warn">{warning}</p>)}
      {curve ? (
        <>
          <p>How often it tells examples apart that it was not made from, layer by layer{described.layer === null ? "" : `; its choice is layer ${described.layer}`}.</p>
          <ProbeCurve {...curve} best={described.layer} title={`Held-out accuracy of ${name}`} />
        </>
      ) : (
        <p class="warn">Too few examples to hold some out: nothing is known of its quality. Add more, if you can.</p>
      )}
      <button type="button" class="primary" onClick={close}>Try it</button>
    </section>
  );
}

export function curveOf(quality: Quality | null): { layers: number[]; accuracy: number[]; intervals: [number, number][] | null; shuffled: number[] | null } | null {
  const layers = Object.keys(quality?.layers ?? {}).map(Number).sort((a, b) => a - b);
  const rows = layers.map((one) => quality!.layers[String(one)]!);
  if (!rows.length || rows.some((row) => typeof row.accuracy !== "number")) return null;
  const intervals = rows.map((row) => row.accuracy_interval);
  const shuffled = rows.map((row) => row.shuffled);
  return {
    layers, accuracy: rows.map((row) => row.accuracy),
    intervals: intervals.every((one): one is [number, number] => !!one) ? intervals : null,
    shuffled: shuffled.every((one): one is number => typeof one === "number") ? shuffled : null,
  };
}
