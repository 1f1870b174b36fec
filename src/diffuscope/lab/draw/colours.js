// Numbers to colours: maps of 256 colours, made from a few that are set by hand and mixed in linear light.

/** @param {string[]} stops hex colours, evenly spaced @returns {Uint8ClampedArray} 256 x RGB */
function map(stops) {
  const points = stops.map((hex) => [1, 3, 5].map((at) => (parseInt(hex.slice(at, at + 2), 16) / 255) ** 2.2));
  const table = new Uint8ClampedArray(768);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (points.length - 1);
    const k = Math.min(Math.floor(at), points.length - 2);
    for (let c = 0; c < 3; c++) {
      const mixed = points[k][c] + (points[k + 1][c] - points[k][c]) * (at - k);
      table[i * 3 + c] = 255 * mixed ** (1 / 2.2);
    }
  }
  return table;
}

export const MAPS = {
  /** Values with a sign: blue below zero, orange above. */
  signed: map(['#0b3c6f', '#2f7fb8', '#9cc7e0', '#f4f2ee', '#f3b98b', '#d9692c', '#7a2a0a']),
  /** Shares from none to most. */
  heat: map(['#12101c', '#4a1d57', '#97334f', '#dc5b33', '#f59f3c', '#fdf0c2']),
  grey: map(['#000000', '#ffffff']),
};

/** @typedef {{width: number, height: number, rgba: Uint8ClampedArray}} Picture */

/**
 * One channel as a picture.
 * @param {ArrayLike<number>} values @param {number} width @param {number} height @param {keyof typeof MAPS} name
 * @param {number} low value of the first colour @param {number} high value of the last
 * @param {number} [offset] where the channel begins @returns {Picture}
 */
export function mapped(values, width, height, name, low, high, offset = 0) {
  const table = MAPS[name];
  const rgba = new Uint8ClampedArray(width * height * 4);
  const scale = 255 / (high - low || 1);
  for (let i = 0; i < width * height; i++) {
    const at = Math.max(0, Math.min(255, Math.round((values[offset + i] - low) * scale))) * 3;
    rgba[i * 4] = table[at];
    rgba[i * 4 + 1] = table[at + 1];
    rgba[i * 4 + 2] = table[at + 2];
    rgba[i * 4 + 3] = 255;
  }
  return { width, height, rgba };
}

/**
 * Latents [C,h,w] as colours, by a linear map to RGB in [-1,1].
 * @param {Values} latents @param {{matrix: number[][], offset: number[]}} rgb @returns {Picture}
 */
export function coloured({ data, shape }, { matrix, offset }) {
  const [channels, height, width] = shape;
  const cells = width * height;
  const rgba = new Uint8ClampedArray(cells * 4);
  for (let i = 0; i < cells; i++) {
    for (let c = 0; c < 3; c++) {
      let sum = offset[c];
      for (let k = 0; k < channels; k++) sum += matrix[c][k] * data[k * cells + i];
      rgba[i * 4 + c] = (sum + 1) * 127.5;
    }
    rgba[i * 4 + 3] = 255;
  }
  return { width, height, rgba };
}

/** The largest size of any value. @param {ArrayLike<number>} values */
export function largest(values) {
  let most = 0;
  for (let i = 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]));
  return most;
}

/** A number as short as it may be and always as wide. @param {number} value @param {number} [digits] */
export function short(value, digits = 3) {
  if (!Number.isFinite(value)) return String(value);
  const size = Math.abs(value);
  if (size >= 100000 || (size > 0 && size < 0.0005)) return value.toExponential(1).replaceAll('-', '−');
  if (size >= 1000) return value.toFixed(0).replace('-', '−');
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : digits).replace('-', '−');
}

/** How far two arrays are apart: in each cell the length over the channels, the most of it, and the root mean square.
 * @param {Values} a @param {Values} b */
export function between(a, b) {
  const [, height, width] = a.shape;
  const sizes = new Float32Array(width * height);
  for (let i = 0; i < a.data.length; i++) sizes[i % sizes.length] += (a.data[i] - b.data[i]) ** 2;
  let sum = 0;
  let most = 0;
  for (let i = 0; i < sizes.length; i++) {
    sum += sizes[i];
    sizes[i] = Math.sqrt(sizes[i]);
    most = Math.max(most, sizes[i]);
  }
  return { width, height, sizes, most, mean: Math.sqrt(sum / a.data.length) };
}
