// The answer to one input: classes as bars, a mask as a picture, anything else as JSON.
import { html, useEffect, useRef } from "./vendor/htm-preact.js";

const TOP = 10;

export function Answer({ model, prediction, notes, milliseconds, show }) {
  return html`
    ${show && html`<${Seen} show=${show} />`}
    <${Prediction} model=${model} prediction=${prediction} />
    ${notes && html`<pre>${JSON.stringify(notes, null, 1)}</pre>`}
    <p class="note">${milliseconds.toFixed(1)} ms from this browser and back</p>
  `;
}

function Prediction({ model, prediction }) {
  if (prediction?.probabilities && model.labels) return html`<${Classes} names=${model.labels} ...${prediction} />`;
  if (prediction?.mask) return html`<${Mask} labels=${model.labels ?? []} mask=${prediction.mask} />`;
  if (prediction?.values?.[0]?.name) return html`<${Values} values=${prediction.values} />`;
  return html`<pre>${JSON.stringify(prediction, null, 1)}</pre>`;
}

function Values({ values }) {
  return html`<table>
    <tbody>
      ${values.map(({ name, value, unit }) => html`<tr><th scope="row">${name}</th><td class="result">${value.toPrecision(6)} ${unit}</td></tr>`)}
    </tbody>
  </table>`;
}

function Seen({ show }) {
  const canvas = useRef(null);
  useEffect(() => show(canvas.current), [show]);
  return html`<canvas ref=${canvas} class="seen small" role="img" aria-label="The picture that was sent"></canvas>`;
}

// One class, or with `labels` those that apply beside each other.
function Classes({ names, label, labels, probabilities }) {
  const order = probabilities.map((probability, index) => [probability, index]).sort(([a], [b]) => b - a);
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  return html`
    ${label !== undefined && html`<p class="result"><strong>${label}</strong>, ${percent(order[0][0])}</p>`}
    ${labels && html`<p class="result"><strong>${labels.map((one) => one.label ?? one).join(", ") || "no label"}</strong></p>`}
    <table>
      <caption>Most probable first</caption>
      <tbody>
        ${order.slice(0, TOP).map(
          ([probability, index]) => html`<tr>
            <th scope="row">${names[index]}</th>
            <td class="number">${percent(probability)}</td>
            <td class="wide"><meter min="0" max="1" value=${probability} aria-hidden="true"></meter></td>
          </tr>`,
        )}
      </tbody>
    </table>
  `;
}

const hue = (index, count) => `hsl(${(360 * index) / count} 65% 50%)`;

function Mask({ labels, mask }) {
  const canvas = useRef(null);
  const classes = [...new Set(mask.flat())].sort((a, b) => a - b);
  const count = Math.max(labels.length, ...classes.map((index) => index + 1));
  useEffect(() => {
    [canvas.current.width, canvas.current.height] = [mask[0].length, mask.length];
    const context = canvas.current.getContext("2d");
    mask.forEach((row, y) =>
      row.forEach((index, x) => {
        context.fillStyle = hue(index, count);
        context.fillRect(x, y, 1, 1);
      }),
    );
  }, [mask]);
  const share = (index) => (100 * mask.flat().filter((one) => one === index).length) / mask.flat().length;
  return html`
    <canvas ref=${canvas} class="seen" role="img" aria-label="The class of each pixel"></canvas>
    <ul class="legend">
      ${classes.map((index) => html`<li><span style=${{ background: hue(index, count) }}></span>${labels[index] ?? `class ${index}`}: ${share(index).toFixed(1)} %</li>`)}
    </ul>
  `;
}
