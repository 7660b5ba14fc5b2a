// Any other input, as JSON: a sequence by channel, or tensors by input.
import { html, useState } from "../vendor/htm-preact.js";

const NOTHING = { BOOL: false, BYTES: "" }; // of the other datatypes: 0

const filled = (value, [size, ...rest]) =>
  size === undefined ? value : Array.from({ length: size === -1 ? 1 : size }, () => filled(value, rest));

function example(model) {
  const { preprocessing, inputs } = model;
  if (preprocessing?.kind === "sequence") {
    return Object.fromEntries(preprocessing.channels.map((name, index) => [name, Array(preprocessing.length).fill(preprocessing.mean[index])]));
  }
  const needed = inputs.filter((one) => !one.parameters?.optional);
  const tensors = needed.map(({ name, shape, datatype }) => [name, filled(NOTHING[datatype] ?? 0, shape.slice(1))]);
  return tensors.length === 1 ? tensors[0][1] : Object.fromEntries(tensors);
}

export function Text({ model, ask, busy }) {
  const [text, setText] = useState(() => JSON.stringify(example(model)));
  const [problem, setProblem] = useState(null);

  function send(event) {
    event.preventDefault();
    try {
      const instance = JSON.parse(text);
      setProblem(null);
      ask(instance, null);
    } catch (error) {
      setProblem(`This is not JSON: ${error.message}`);
    }
  }

  return html`<form onSubmit=${send}>
    <label>One input, as JSON <textarea rows="12" spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)}></textarea></label>
    ${problem && html`<p class="fail" role="alert">${problem}</p>`}
    <button class="main" disabled=${busy}>Predict</button>
  </form>`;
}
