import type { JSX } from "preact";
import { useState } from "preact/hooks";

/** A number that may be half typed ("-", "0.") while the page is drawn anew around it. */
export function NumberField(props: {
  value: number; change: (value: number) => void; min?: number; max?: number; step?: string;
}): JSX.Element {
  const [draft, setDraft] = useState<string | null>(null);
  const { min = -Infinity, max = Infinity } = props;
  return (
    <input
      type="number" min={props.min} max={props.max} step={props.step ?? "1"} value={draft ?? props.value}
      onInput={(event) => {
        const text = event.currentTarget.value;
        setDraft(text);
        const value = Number(text);
        if (text.trim() !== "" && Number.isFinite(value)) props.change(Math.min(max, Math.max(min, value)));
      }}
      onBlur={() => setDraft(null)}
    />
  );
}
