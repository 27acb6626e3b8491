import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { unlock } from "../api";
import { locked } from "../state";

/** Asks for a key of the server's, where the page has no session. */
export function Key({ then }: { then: () => void }): JSX.Element {
  const [key, setKey] = useState("");
  const [failed, setFailed] = useState<string | null>(null);
  const send = async () => {
    try {
      await unlock(key.trim());
      locked.value = false;
      then();
    } catch (error) {
      setFailed(error instanceof Error ? error.message : String(error));
    }
  };
  return (
    <form class="key" onSubmit={(event) => { event.preventDefault(); void send(); }}>
      <h2>This server has a key</h2>
      <p>Open the address that <code>steer serve --ui</code> printed, which works once, or give a key here: one to read and generate, or the admin's to make and measure directions as well.</p>
      <label><span>Key</span><input type="password" required autocomplete="off" value={key} onInput={(event) => setKey(event.currentTarget.value)} /></label>
      {failed && <p class="warn" role="alert">{failed}</p>}
      <button type="submit" class="primary">Open the page</button>
    </form>
  );
}
