// A row of a table: a field for each column.
import { html, useState } from "../vendor/htm-preact.js";

export function Row({ model, ask, busy }) {
  const { columns, mean } = model.preprocessing;
  const means = () => Object.fromEntries(columns.map((name, index) => [name, String(Number(mean[index].toPrecision(6)))]));
  const [values, setValues] = useState(means);
  const [problem, setProblem] = useState(null);

  function paste(event) {
    const cells = event.clipboardData.getData("text").trim().split(/[\t,;]/);
    if (cells.length !== columns.length) return;
    event.preventDefault();
    setValues(Object.fromEntries(columns.map((name, index) => [name, cells[index].trim()])));
  }

  function send(event) {
    event.preventDefault();
    const wrong = columns.find((name) => values[name].trim() === "" || !Number.isFinite(Number(values[name])));
    setProblem(wrong === undefined ? null : `Column ${wrong} needs a number.`);
    if (wrong === undefined) ask(Object.fromEntries(columns.map((name) => [name, Number(values[name])])), null);
  }

  return html`<form onSubmit=${send} onPaste=${paste}>
    <p class="note">The fields hold the means of the training data. A row of a table can be pasted into any of them.</p>
    <div class="fields">
      ${columns.map(
        (name) => html`<label>
          ${name}
          <input inputmode="decimal" value=${values[name]} onInput=${(event) => setValues({ ...values, [name]: event.target.value })} />
        </label>`,
      )}
    </div>
    ${problem && html`<p class="fail" role="alert">${problem}</p>`}
    <div class="actions">
      <button class="main" disabled=${busy}>Predict</button>
      <button type="button" onClick=${() => setValues(means())}>Means</button>
    </div>
  </form>`;
}
