// How far the recent inputs are from those of the training, layer by layer.
import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { modelPath, request } from "./api.js";

const POLL_MS = 5000;

export function Drift({ model, me }) {
  const [drift, setDrift] = useState(null);
  const [problem, setProblem] = useState(null);
  const allowed = !me || me.scopes.includes("metrics");

  useEffect(() => {
    const look = () =>
      request(`v2/${modelPath(model.name, model.version)}/drift`).then(setDrift, (error) => setProblem(error.message));
    if (!allowed) return undefined;
    look();
    const timer = setInterval(() => document.hidden || look(), POLL_MS);
    return () => clearInterval(timer);
  }, [allowed]);

  if (!allowed) return html`<p>Drift needs a key with the scope metrics.</p>`;
  if (problem) return html`<p class="fail" role="alert">${problem}</p>`;
  if (!drift) return html`<p>…</p>`;
  return html`<h2>Drift of ${model.name}, version ${model.version}</h2>
    <p class="result">${sentence(drift)}</p>
    ${drift.monitored && html`<${Layers} ...${drift} />`}
    ${drift.drifted && html`<p>If the new inputs are here to stay: <code>normfold adapt ${model.name}</code> makes a version with their statistics, without labels.</p>`}`;
}

function sentence({ monitored, reason, drifted, rows, window_fill: fill, layers }) {
  if (!monitored) return reason ?? "This version is not monitored.";
  if (drifted === true) return "The recent inputs differ from those of the training.";
  if (drifted === false) return "The recent inputs are like those of the training.";
  if (!layers.some((one) => one.threshold != null)) return "There are no thresholds: the bundle was exported without validation data.";
  return `Not enough inputs yet: the window is ${Math.round(100 * fill)} % full, after ${rows} rows.`;
}

function Layers({ layers, window_rows: windowRows, window_fill: fill }) {
  return html`<p class="note">Window of ${windowRows} rows, ${Math.round(100 * fill)} % full.</p>
    <div class="scroll" tabindex="0">
      <table>
        <caption>
          Kullback-Leibler divergence from the training's statistics, in nats, in the order of the network. For inputs like those of the
          training, a channel's mean is 0 and its std 1.
        </caption>
        <thead>
          <tr><th>Layer</th><th class="number">Score</th><th class="number">Threshold</th><th>Result</th><th>Worst channels</th></tr>
        </thead>
        <tbody>
          ${layers.map(
            (layer) => html`<tr>
              <th scope="row">${layer.node}</th>
              <td class="number">${format(layer.score)}</td>
              <td class="number">${format(layer.threshold)}</td>
              <td class=${layer.drifted ? "fail" : ""}>${layer.drifted == null ? "–" : layer.drifted ? "▲ over" : "✓ under"}</td>
              <td>${(layer.worst_channels ?? []).map((one) => `${one.channel} (mean ${one.mean.toFixed(2)}, std ${one.std.toFixed(2)})`).join(", ")}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`;
}

const format = (value) => (value == null ? "–" : value.toPrecision(3));
