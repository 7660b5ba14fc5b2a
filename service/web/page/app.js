// The page: which model and version is looked at, and the panels about it.
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { request, storedKey, storeKey } from "./api.js";
import { Drift } from "./drift.js";
import { KeyField } from "./key.js";
import { Models } from "./models.js";
import { Try } from "./try.js";

const PANELS = { try: ["Try", Try], drift: ["Drift", Drift], models: ["Models", Models] };
const POLL_MS = 5000;

function panelOfAddress() {
  const name = location.hash.slice(1);
  return name in PANELS ? name : "try";
}

function Page() {
  const [panel, setPanel] = useState(panelOfAddress());
  const [me, setMe] = useState(null);
  const [models, setModels] = useState(null);
  const [error, setError] = useState(null);
  const [chosen, setChosen] = useState(null); // "NAME/VERSION"

  async function look() {
    try {
      setMe(await request("v2/me"));
      setModels((await request("v1/models")).models);
      setError(null);
    } catch (problem) {
      setError(problem);
    }
  }

  useEffect(() => {
    const follow = () => setPanel(panelOfAddress());
    addEventListener("hashchange", follow);
    look();
    const timer = setInterval(() => document.hidden || look(), POLL_MS);
    return () => {
      removeEventListener("hashchange", follow);
      clearInterval(timer);
    };
  }, []);

  if (error?.status === 401) return html`<${KeyField} wasWrong=${storedKey() !== ""} onKey=${(key) => (storeKey(key), look())} />`;
  const ready = (models ?? []).flatMap(({ name, versions }) =>
    versions.filter((one) => one.state === "READY").map((one) => ({ name, ...one, id: `${name}/${one.version}` })),
  );
  const model = ready.find((one) => one.id === chosen) ?? newest(ready);
  const [title, Panel] = PANELS[panel];
  return html`
    <nav aria-label="Panels">
      ${Object.entries(PANELS).map(
        ([name, [text]]) => html`<a href=${`#${name}`} aria-current=${name === panel ? "page" : null}>${text}</a>`,
      )}
      ${ready.length > 0 &&
      html`<label>
        Model
        <select value=${model.id} onChange=${(event) => setChosen(event.target.value)}>
          ${ready.map((one) => html`<option value=${one.id}>${one.name}, version ${one.version}</option>`)}
        </select>
      </label>`}
    </nav>
    ${error && html`<p class="fail" role="alert">${error.message}</p>`}
    ${models && ready.length === 0 && panel !== "models" && html`<p>No model is ready; <a href="#models">Models</a> has the reasons.</p>`}
    <section aria-label=${title}>
      ${(model || panel === "models") &&
      html`<${Panel} key=${panel === "models" ? "" : model.id} model=${model} models=${models ?? []} me=${me} onChange=${look} />`}
    </section>
    ${me?.key &&
    html`<p class="note">
      Key “${me.key.name}” with the scopes ${me.scopes.join(", ")}.
      <button onClick=${() => (storeKey(""), look())}>Forget the key</button>
    </p>`}
  `;
}

// The first model's newest version: what answers where no version is named.
function newest(ready) {
  const [first] = ready;
  return ready.filter((one) => one.name === first?.name).sort((a, b) => b.version - a.version)[0];
}

render(html`<${Page} />`, document.getElementById("page"));
