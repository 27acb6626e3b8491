import type { ComponentChildren, JSX } from "preact";
import { useEffect, useId, useRef } from "preact/hooks";

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

/** Progress of a job, said and drawn. */
export function Progress(props: { what: string; done: number; of: number }): JSX.Element {
  return (
    <p class="progress" role="status">
      <progress value={props.done} max={props.of || 1} aria-label={props.what} /> <span>{props.what}</span>
    </p>
  );
}
