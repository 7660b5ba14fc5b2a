// Every version of every model: its state, and loading and unloading.
import { html, useState } from "./vendor/htm-preact.js";
import { request } from "./api.js";

export function Models({ models, me, onChange }) {
  const [problem, setProblem] = useState(null);
  const [asked, setAsked] = useState(null); // the model to unload

  async function change(name, action) {
    try {
      await request(`v2/repository/models/${encodeURIComponent(name)}/${action}`, { method: "POST" });
      setProblem(null);
    } catch (error) {
      setProblem(error.message);
    }
    setAsked(null);
    onChange();
  }

  const mayChange = me?.changes && me.scopes.includes("admin");
  return html`<h2>Models</h2>
    ${problem && html`<p class="fail" role="alert">${problem}</p>`}
    <div class="scroll" tabindex="0">
      <table>
        <thead><tr><th>Model</th><th>Version</th><th>State</th><th>Precision</th><th>Provider</th><th>Actions</th></tr></thead>
        <tbody>
          ${models.flatMap(({ name, versions, reason }) =>
            (versions.length ? versions : [{ version: "–", state: "UNREADABLE", reason }]).map(
              (one, index) => html`<tr>
                <th scope="row">${name}</th>
                <td>${one.version}</td>
                <td>
                  <span class=${one.state === "READY" ? "pass" : "fail"}>${one.state === "READY" ? "✓" : "▲"} ${one.state.toLowerCase()}</span>
                  ${one.reason && html`<br />${one.reason}`}
                </td>
                <td>${one.precision ?? (one.provider ? "float32" : "")}</td>
                <td>${one.provider}</td>
                <td>
                  ${index === 0 &&
                  mayChange &&
                  html`<div class="actions">
                    <button onClick=${() => change(name, "load")} aria-label=${`Load ${name}`}>Load</button>
                    <button onClick=${() => setAsked(name)} aria-label=${`Unload ${name}`}>Unload …</button>
                  </div>`}
                </td>
              </tr>`,
            ),
          )}
        </tbody>
      </table>
    </div>
    ${!me?.changes && html`<p class="note">Models are not changed from here: <code>NORMFOLD_PAGE</code> is not on, or <code>NORMFOLD_MODEL_CONTROL</code> is not explicit.</p>`}
    ${asked && html`<${Confirm} name=${asked} onConfirm=${() => change(asked, "unload")} onCancel=${() => setAsked(null)} />`}`;
}

function Confirm({ name, onConfirm, onCancel }) {
  const [typed, setTyped] = useState("");
  const send = (event) => {
    event.preventDefault();
    onConfirm();
  };
  return html`<form class="confirm" onSubmit=${send}>
    <label>Requests to ${name} are answered 503 once it is unloaded. Type its name to unload it
      <input value=${typed} autocomplete="off" onInput=${(event) => setTyped(event.target.value)} />
    </label>
    <div class="actions">
      <button class="main" disabled=${typed !== name}>Unload ${name}</button>
      <button type="button" onClick=${onCancel}>Cancel</button>
    </div>
  </form>`;
}
