// Painting on latents: colours become latents by the inverse of the linear map, and what was painted goes to the server
// as the exact numbers.

/** @typedef {{matrix: number[][], offset: number[]}} Rgb */

/** The matrix that takes a change of colour [3] to the smallest change of latents [C] that makes it.
 * @param {number[][]} matrix [3][C] @returns {number[][]} [C][3] */
export function inverse(matrix) {
  const product = matrix.map((row) => matrix.map((other) => row.reduce((sum, value, k) => sum + value * other[k], 0)));
  const inverted = inverted3(product);
  return matrix[0].map((_, c) => [0, 1, 2].map((j) => [0, 1, 2].reduce((sum, i) => sum + matrix[i][c] * inverted[i][j], 0)));
}

/** @param {number[][]} m */
function inverted3(m) {
  const minor = (/** @type {number} */ r, /** @type {number} */ c) => {
    const [a, b] = [0, 1, 2].filter((k) => k !== r);
    const [d, e] = [0, 1, 2].filter((k) => k !== c);
    return (m[a][d] * m[b][e] - m[a][e] * m[b][d]) * ((r + c) % 2 ? -1 : 1);
  };
  const determinant = m[0].reduce((sum, value, c) => sum + value * minor(0, c), 0);
  return [0, 1, 2].map((r) => [0, 1, 2].map((c) => minor(c, r) / determinant));
}

/** Cells within a brush around a position. @param {number} x @param {number} y @param {number} radius @param {number} width
 * @param {number} height @returns {number[]} their indices */
export function brushed(x, y, radius, width, height) {
  const found = [];
  for (let j = 0; j < height; j++)
    for (let i = 0; i < width; i++) if ((i - x) ** 2 + (j - y) ** 2 <= radius ** 2) found.push(j * width + i);
  return found;
}

/**
 * Clean estimate and latents after a stroke: in colour, or with fresh noise in the place of everything.
 * @param {{x: Values, x0: Values}} before @param {number[]} cells @param {string|null} colour hex, or null for noise
 * @param {number} sigma noise level of the latents @param {Rgb} rgb @returns {{x: Values, x0: Values}}
 */
export function stroke(before, cells, colour, sigma, rgb) {
  const [channels, height, width] = before.x.shape;
  const size = width * height;
  const x = before.x.data.slice();
  const x0 = before.x0.data.slice();
  const back = inverse(rgb.matrix);
  const target = colour && [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 127.5 - 1);
  for (const i of cells) {
    if (!target) {
      for (let c = 0; c < channels; c++) {
        x[c * size + i] = sigma * normal();
        x0[c * size + i] = 0;
      }
      continue;
    }
    const missing = target.map((value, k) => {
      let now = rgb.offset[k];
      for (let c = 0; c < channels; c++) now += rgb.matrix[k][c] * x0[c * size + i];
      return value - now;
    });
    for (let c = 0; c < channels; c++) {
      const change = back[c].reduce((sum, factor, k) => sum + factor * missing[k], 0);
      x[c * size + i] += change;
      x0[c * size + i] += change;
    }
  }
  return { x: { data: x, shape: before.x.shape }, x0: { data: x0, shape: before.x0.shape } };
}

function normal() {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

/** Latents as a request has them: one image, float32 in base64. @param {Values} values */
export function latentsOf({ data, shape }) {
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  let text = '';
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return { shape: [1, ...shape], data: btoa(text) };
}
