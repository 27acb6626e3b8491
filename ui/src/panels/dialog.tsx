import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";
import { type Job, remove } from "../api";
import { shown } from "../charts/scale";

/** A window over the page, or a drawer at its side. The browser keeps the focus in it, and Escape closes it. */
export function Dialog(props: {
  title: string; lead?: string; close: () => void; children: ComponentChildren; drawer?: boolean;
}): JSX.Element {
  const element = useRef<HTMLDialogElement>(null);
  const id = useId();
  useEffect(() => {
    const before = document.activeElement;
    element.current?.showModal();
    return () => {
      if (before instanceof HTMLElement) before.focus();
    };
  }, []);
  return (
    <dialog
      ref={element} class={props.drawer ? "drawer" : ""} aria-labelledby={id} onClose={props.close}
      onClick={(event) => event.target === element.current && element.current?.close()}
    >
      <div class="inside">
        <header>
          <h2 id={id}>{props.title}</h2>
          <button type="button" class="quiet icon" aria-label="Close" onClick={() => element.current?.close()}>✕</button>
        </header>
        {props.lead && <p class="lead">{props.lead}</p>}
        {props.children}
      </div>
    </dialog>
  );
}

/** How far a job is, said and drawn, and a way to stop it. */
export function Progress({ job, doing }: { job: Job; doing: string }): JSX.Element {
  const [stopping, setStopping] = useState(false);
  const { what, done, of } = job.progress ?? { what: "", done: 0, of: 1 };
  const said = stopping ? "stopping" : job.progress ? `${doing}: ${what}, ${shown(done)} of ${shown(of)}` : `waiting for its turn`;
  return (
    <p class="progress" role="status">
      <progress value={done} max={of || 1} aria-label={said} /> <span>{said}</span>{" "}
      <button
        type="button" class="link" disabled={stopping}
        onClick={() => {
          setStopping(true);
          remove(`/v1/jobs/${job.id}`).catch(() => setStopping(false)); // it has ended meanwhile, or may not be stopped
        }}
      >
        Stop
      </button>
    </p>
  );
}
