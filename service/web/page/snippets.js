// The request that was sent, for a terminal and for Python.
import { html, useState } from "./vendor/htm-preact.js";
import { address, storedKey } from "./api.js";

const MAX_BODY = 2000;

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function commands(path, body) {
  const [url, text] = [address(path), JSON.stringify(body)];
  const header = storedKey() ? ' -H "Authorization: Bearer $NORMFOLD_CLIENT_KEY"' : "";
  const headers = storedKey() ? ', headers={"Authorization": f"Bearer {os.environ[\'NORMFOLD_CLIENT_KEY\']}"}' : "";
  const imports = storedKey() ? "import os\nimport httpx" : "import httpx";
  return {
    curl: `curl${header} --json ${quote(text)} ${quote(url)}`,
    Python: `${imports}\n\nanswer = httpx.post(${JSON.stringify(url)}, json=${text}${headers})\nprint(answer.json()["predictions"][0])`,
  };
}

export function Snippets({ path, body }) {
  const [copied, setCopied] = useState(null);
  return html`<h3>The same request</h3>
    ${Object.entries(commands(path, body)).map(
      ([name, text]) => html`<details>
        <summary>${name}</summary>
        <button onClick=${() => navigator.clipboard.writeText(text).then(() => setCopied(name))}>${copied === name ? "Copied" : "Copy"}</button>
        <pre>${text.length > MAX_BODY ? `${text.slice(0, MAX_BODY)} … (the copy is whole)` : text}</pre>
      </details>`,
    )}`;
}
