// A picture: drawn, dropped, pasted or chosen; sent as the pixels that are displayed.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { drawPixels, readable, readPixels, toRaw } from "./pixels.js";

const CANVAS_PIXELS = 320; // of the longer side, about
const MAX_FACTOR = 40;
const STROKE = { coarse: 1 / 5, fine: 1 / 9 }; // of the longer side; at 16 pixels or fewer a finer stroke would be grey
const MAX_COARSE = 16;

export function Picture({ model, ask, busy }) {
  const shape = model.preprocessing;
  const canvas = useRef(null);
  const preview = useRef(null);
  const [isEmpty, setEmpty] = useState(true);
  const [problem, setProblem] = useState(null);
  const factor = Math.max(1, Math.min(MAX_FACTOR, Math.round(CANVAS_PIXELS / Math.max(shape.width, shape.height))));
  const [width, height] = [factor * shape.width, factor * shape.height];
  const stroke = Math.max(shape.width, shape.height) <= MAX_COARSE ? STROKE.coarse : STROKE.fine;
  const ink = shape.background < 0.5 ? "white" : "black";

  function clear() {
    const context = readable(canvas.current);
    context.fillStyle = `rgb(${[1, 1, 1].map(() => 255 * shape.background)})`;
    context.fillRect(0, 0, width, height);
    setEmpty(true);
    setProblem(null);
    refresh();
  }

  function refresh() {
    drawPixels(preview.current, readPixels(canvas.current, shape));
  }

  useEffect(clear, []);

  useEffect(() => {
    const paste = (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
      if (file) load(file);
    };
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);

  async function load(file) {
    let picture;
    try {
      picture = await createImageBitmap(file);
    } catch {
      setProblem(`${file.name || "The file"} is not a picture that this browser can read.`);
      return;
    }
    clear();
    const context = readable(canvas.current);
    context.imageSmoothingQuality = "high";
    if (shape.resize === "crop") {
      const scale = Math.max(width / picture.width, height / picture.height);
      const [w, h] = [scale * picture.width, scale * picture.height];
      context.drawImage(picture, (width - w) / 2, (height - h) / 2, w, h);
    } else {
      context.drawImage(picture, 0, 0, width, height);
    }
    setEmpty(false);
    refresh();
  }

  function place(event) {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
  }

  function draw(event) {
    if (event.type === "pointerdown") canvas.current.setPointerCapture(event.pointerId);
    if (!event.buttons) return;
    const context = readable(canvas.current);
    const [x, y] = place(event);
    [context.strokeStyle, context.lineWidth, context.lineCap] = [ink, stroke * Math.max(width, height), "round"];
    context.beginPath();
    context.moveTo(...(event.type === "pointerdown" ? [x, y] : [x - event.movementX, y - event.movementY]));
    context.lineTo(x, y);
    context.stroke();
    setEmpty(false);
    refresh();
  }

  function send() {
    const pixels = readPixels(canvas.current, shape);
    ask(toRaw(pixels, shape.value_max), (target) => drawPixels(target, pixels));
  }

  return html`
    <p>Draw, drop or paste a picture, or <label class="file">choose a file <input type="file" accept="image/png,image/jpeg" onChange=${(event) => event.target.files[0] && load(event.target.files[0])} /></label>.</p>
    <div class="pictures">
      <canvas
        ref=${canvas}
        width=${width}
        height=${height}
        role="img"
        aria-label="Drawing area; a file can be chosen instead"
        onPointerDown=${draw}
        onPointerMove=${draw}
        onDragOver=${(event) => event.preventDefault()}
        onDrop=${(event) => (event.preventDefault(), event.dataTransfer.files[0] && load(event.dataTransfer.files[0]))}
      ></canvas>
      <figure>
        <canvas ref=${preview} class="seen" role="img" aria-label="The picture as the network sees it"></canvas>
        <figcaption>as the network sees it, ${shape.width} × ${shape.height}</figcaption>
      </figure>
    </div>
    ${problem && html`<p class="fail" role="alert">${problem}</p>`}
    <div class="actions">
      <button class="main" disabled=${isEmpty || busy} onClick=${send}>Predict</button>
      <button onClick=${clear}>Clear</button>
    </div>
  `;
}
