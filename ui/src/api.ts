// The server's API, as far as the page uses it.

export interface Described {
  name: string;
  digest: string;
  type: string;
  layers: number[];
  layer: number | null;
  site: string;
  d_model: number;
  method: string | null;
  model: string | null;
  fits: boolean;
  norms: Record<string, number> | null;
  gap: Record<string, number> | null;
  quality: Quality | null;
  metadata: Record<string, unknown>;
}

export interface Quality {
  folds: number;
  warnings?: string[];
  layers: Record<string, LayerQuality>;
}

export interface LayerQuality {
  accuracy: number;
  accuracy_interval: [number, number] | null;
  auroc: number;
  shuffled: number | null;
}

export interface Band {
  layer: number;
  low: number;
  high: number;
  sweep: string;
  prompts: number | null;
  kl_tokens: number | null;
  repetition: Record<string, number> | null;
}

export interface Analysis extends Described {
  warnings: string[];
  cosines: Record<string, number>;
  has_pairs: boolean;
  sweeps: string[];
  bands: Band[];
  max_kl: number;
  max_repetition: number;
}

export interface Job {
  id: string;
  kind: string;
  status: "queued" | "running" | "succeeded" | "failed" | "cancelled";
  created: number;
  progress: { what: string; done: number; of: number } | null;
  request?: Record<string, any>;
  result?: Record<string, any> | null;
  error: { message: string } | null;
}

export interface Chart {
  chart: string;
  arguments: Record<string, any>;
}

export interface Applied {
  operation: string;
  vector?: string;
  strength: number | number[];
  layers: number[];
  positions: string | null;
  tokens: { prompt: number; generation: number };
  condition?: boolean;
}

export interface Model {
  id: string;
  preset: string | null;
  max_model_len: number | null;
  n_layers?: number;
  d_model?: number;
  chat?: boolean;
}

/** What the server refused, with its reason. */
export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

async function refused(response: Response): Promise<Refusal> {
  try {
    const { error } = await response.json();
    return new Refusal(response.status, error.code, error.message);
  } catch {
    return new Refusal(response.status, "unknown", `the server answered ${response.status}`);
  }
}

async function ask(path: string, init: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Refusal(0, "unreachable", "the server cannot be reached; is it still running?");
  }
  if (!response.ok) throw await refused(response);
  return response;
}

const posted = (body: unknown, signal?: AbortSignal): RequestInit => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  signal: signal ?? null,
});

export const get = async <T>(path: string, signal?: AbortSignal): Promise<T> =>
  (await ask(path, { signal: signal ?? null })).json();
export const post = async <T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> =>
  (await ask(path, posted(body, signal))).json();
export const postText = async (path: string, body: unknown): Promise<string> => (await ask(path, posted(body))).text();
export const postBlob = async (path: string, body: unknown): Promise<Blob> => (await ask(path, posted(body))).blob();
export const getBlob = async (path: string): Promise<Blob> => (await ask(path)).blob();
/** Exchange a key for a session, which the browser keeps where no script can read it. */
export const unlock = async (key: string): Promise<void> =>
  void (await ask("/session", { method: "POST", headers: { Authorization: `Bearer ${key}` } }));
export const remove = async (path: string): Promise<void> => void (await ask(path, { method: "DELETE" }));
export const upload = async <T>(path: string, file: Blob): Promise<T> =>
  (
    await ask(path, { method: "PUT", headers: { "Content-Type": "application/octet-stream" }, body: file })
  ).json();

/** The documents of a stream of server-sent events, until `[DONE]` or its end. */
export async function* stream(path: string, body: unknown, signal: AbortSignal): AsyncGenerator<any> {
  const response = await ask(path, posted(body, signal));
  const reader = response.body!.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const { documents, left, ended } = events(rest);
    yield* documents;
    if (ended) return;
    rest = left;
  }
}

/** What a piece of an event stream holds, and what of it is not yet whole. */
export function events(text: string): { documents: any[]; left: string; ended: boolean } {
  const blocks = text.split("\n\n");
  const left = blocks.pop() ?? "";
  const documents: any[] = [];
  for (const block of blocks) {
    const data = block
      .split("\n")
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).trimStart())
      .join("\n");
    if (data === "[DONE]") return { documents, left: "", ended: true };
    if (data) documents.push(JSON.parse(data));
  }
  return { documents, left, ended: false };
}

/** Follows a job until it ends. */
export function follow(id: string, changed: (job: Job) => void): () => void {
  const source = new EventSource(`/v1/jobs/${id}/events`);
  const told = (event: MessageEvent) => {
    const job: Job = JSON.parse(event.data);
    if (["succeeded", "failed", "cancelled"].includes(job.status)) source.close();
    changed(job);
  };
  for (const status of ["queued", "running", "succeeded", "failed", "cancelled"]) source.addEventListener(status, told);
  return () => source.close();
}

/** Gives a file to whoever sits before the page. */
export function save(name: string, content: Blob | string, type = "text/plain"): void {
  const blob = typeof content === "string" ? new Blob([content], { type }) : content;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
