// An input for the chosen model, and its answer.
import { html, useState } from "./vendor/htm-preact.js";
import { modelPath, timed } from "./api.js";
import { Answer } from "./answer.js";
import { Picture } from "./inputs/picture.js";
import { Row } from "./inputs/row.js";
import { Text } from "./inputs/text.js";
import { Snippets } from "./snippets.js";

const INPUTS = { image: Picture, row: Row, table: Row };

export function Try({ model, me }) {
  const [asked, setAsked] = useState(null);
  const [answer, setAnswer] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);

  // Sends one instance in raw units; `show` draws what the network saw beside the answer.
  async function ask(instance, show) {
    setBusy(true);
    const path = `v1/${modelPath(model.name, model.version)}:predict`;
    const body = { instances: [instance] };
    try {
      const { record, milliseconds } = await timed(path, { method: "POST", body });
      setAnswer({ prediction: record.predictions[0], notes: record.notes, milliseconds, show });
      setProblem(null);
    } catch (error) {
      setProblem(error.message);
    }
    setAsked({ path, body });
    setBusy(false);
  }

  if (me && !me.scopes.includes("infer")) return html`<p>Trying a model needs a key with the scope infer.</p>`;
  const Input = INPUTS[model.preprocessing?.kind] ?? Text;
  return html`
    <h2>Try ${model.name}</h2>
    <div class="columns">
      <div><${Input} model=${model} ask=${ask} busy=${busy} /></div>
      <div aria-live="polite">
        ${problem && html`<p class="fail">${problem}</p>`}
        ${!problem && answer && html`<${Answer} model=${model} ...${answer} />`}
        ${!problem && !answer && html`<p class="note">The answer appears here.</p>`}
      </div>
    </div>
    ${asked && html`<${Snippets} ...${asked} />`}
  `;
}
