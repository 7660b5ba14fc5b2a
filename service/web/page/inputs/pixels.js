// From a picture to the pixels of the network's size, in the units of the training data.

// The context of a canvas that is read again and again.
export const readable = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

// Returns intensities 0 to 1, [channels][height][width]: the mean over each pixel's area of the canvas.
// The canvas is a whole number of times as large as the network's input.
export function readPixels(canvas, { channels, height, width, background }) {
  const { data } = readable(canvas).getImageData(0, 0, canvas.width, canvas.height);
  const step = canvas.width / width;
  const weights = channels === 1 ? [[0.299, 0.587, 0.114]] : [[1, 0, 0], [0, 1, 0], [0, 0, 1]]; // ITU-R BT.601 luma
  const mean = (row, column, [red, green, blue]) => {
    let sum = 0;
    for (let y = row * step; y < (row + 1) * step; y++) {
      for (let x = column * step; x < (column + 1) * step; x++) {
        const at = 4 * (y * canvas.width + x);
        const opaque = data[at + 3] / 255;
        const value = (red * data[at] + green * data[at + 1] + blue * data[at + 2]) / 255;
        sum += opaque * value + (1 - opaque) * background;
      }
    }
    return sum / step ** 2;
  };
  return weights.map((channel) =>
    Array.from({ length: height }, (_, row) => Array.from({ length: width }, (_, column) => mean(row, column, channel))),
  );
}

// Scales intensities to raw values, rounded to what a viewer can tell apart.
export const toRaw = (pixels, valueMax) =>
  pixels.map((channel) => channel.map((row) => row.map((value) => Math.min(valueMax, Number((value * valueMax).toPrecision(5))))));

// Draws intensities on a canvas of one pixel for each.
export function drawPixels(canvas, pixels) {
  const [height, width] = [pixels[0].length, pixels[0][0].length];
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const at = 4 * (row * width + column);
      for (let channel = 0; channel < 3; channel++) {
        image.data[at + channel] = 255 * pixels[Math.min(channel, pixels.length - 1)][row][column];
      }
      image.data[at + 3] = 255;
    }
  }
  context.putImageData(image, 0, 0);
}
