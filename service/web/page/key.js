// The field for a key, where the service needs one.
import { html, useState } from "./vendor/htm-preact.js";

export function KeyField({ wasWrong, onKey }) {
  const [key, setKey] = useState("");
  const send = (event) => {
    event.preventDefault();
    onKey(key.trim());
  };
  return html`<form class="key" onSubmit=${send}>
    <h2>This service needs a key</h2>
    ${wasWrong && html`<p class="fail" role="alert">The service does not accept that key.</p>`}
    <label>Key <input type="password" autocomplete="off" required value=${key} onInput=${(event) => setKey(event.target.value)} /></label>
    <button>Use the key</button>
    <p class="note">It is kept in this tab until the tab is closed. <code>normfold keys create NAME</code> makes one.</p>
  </form>`;
}
