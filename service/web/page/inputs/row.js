// A row of a table: a field for each column, of the column's kind. An empty field is a missing value.
import { html, useState } from "../vendor/htm-preact.js";

const SEPARATORS = /[\t,;]/;

// The columns of either kind of preprocessing: of numbers alone, or with text, booleans and missing values.
function columnsOf({ kind, columns, mean }) {
  if (kind === "row") return columns.map((name, index) => ({ name, kind: "number", mean: mean[index], missing: "refuse" }));
  return columns;
}

function usual({ kind, mean, categories }) {
  if (kind === "category") return categories[0];
  return kind === "boolean" ? String(mean >= 0.5) : String(Number(mean.toPrecision(6)));
}

// Returns the value to send, or undefined if the text is none.
function read({ kind, missing }, text) {
  if (text.trim() === "") return missing === "refuse" ? undefined : null;
  if (kind === "category") return text;
  if (kind === "boolean") return { true: true, false: false }[text];
  return Number.isFinite(Number(text)) ? Number(text) : undefined;
}

export function Row({ model, ask, busy }) {
  const columns = columnsOf(model.preprocessing);
  const usualValues = () => Object.fromEntries(columns.map((column) => [column.name, usual(column)]));
  const [values, setValues] = useState(usualValues);
  const [problem, setProblem] = useState(null);

  function paste(event) {
    const cells = event.clipboardData.getData("text").trim().split(SEPARATORS);
    if (cells.length !== columns.length || cells.length === 1) return;
    event.preventDefault();
    setValues(Object.fromEntries(columns.map(({ name }, index) => [name, cells[index].trim()])));
  }

  function send(event) {
    event.preventDefault();
    const wrong = columns.find((column) => read(column, values[column.name]) === undefined);
    setProblem(wrong ? `Column ${wrong.name} needs a ${wrong.kind === "number" ? "number" : "value"}.` : null);
    if (!wrong) ask(Object.fromEntries(columns.map((column) => [column.name, read(column, values[column.name])])), null);
  }

  return html`<form onSubmit=${send} onPaste=${paste}>
    <p class="note">The fields hold usual values of the training data. A row of a table can be pasted into any of them.</p>
    <div class="fields">
      ${columns.map(
        (column) => html`<label>
          ${column.name}
          <${Field} column=${column} value=${values[column.name]} onValue=${(text) => setValues({ ...values, [column.name]: text })} />
        </label>`,
      )}
    </div>
    ${problem && html`<p class="fail" role="alert">${problem}</p>`}
    <div class="actions">
      <button class="main" disabled=${busy}>Predict</button>
      <button type="button" onClick=${() => setValues(usualValues())}>Usual values</button>
    </div>
  </form>`;
}

function Field({ column, value, onValue }) {
  const change = (event) => onValue(event.target.value);
  if (column.kind === "number") return html`<input inputmode="decimal" value=${value} onInput=${change} />`;
  if (column.kind === "boolean") {
    return html`<select value=${value} onChange=${change}>
      ${["true", "false", ...(column.missing === "refuse" ? [] : [""])].map((one) => html`<option value=${one}>${one || "missing"}</option>`)}
    </select>`;
  }
  const list = `categories of ${column.name}`; // others than these may be typed too
  return html`<input list=${list} value=${value} onInput=${change} />
    <datalist id=${list}>${column.categories.map((one) => html`<option value=${one}></option>`)}</datalist>`;
}
