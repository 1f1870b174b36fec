// Principal components of self-attention as colours: positions whose rows of attention point alike get one colour.

import { part } from '../tensors.js';

const TURNS = 24; // of the power iteration: the colours no longer change

/** @type {WeakMap<Tensor, Picture[]>} */
const made = new WeakMap();

/** @param {Tensor} maps [calls,h,w,h,w] bytes @param {Tensor} scales [calls,h,w] @param {number} call
 * @returns {Picture} */
export function components(maps, scales, call) {
  const kept = made.get(maps) ?? [];
  made.set(maps, kept);
  return (kept[call] ??= coloured(part(maps, call), part(scales, call)));
}

/** @param {Tensor} maps @param {Tensor} scales */
function coloured(maps, scales) {
  const [height, width] = maps.shape;
  const n = height * width;
  const rows = Float32Array.from(maps.data, (value, i) => Math.sqrt((value * scales.data[Math.floor(i / n)]) / 255));
  centre(rows, n);
  const rgba = new Uint8ClampedArray(n * 4).fill(255);
  for (let c = 0; c < 3; c++) {
    const scores = direction(rows, n, c);
    const high = scores.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
    for (let i = 0; i < n; i++) rgba[i * 4 + c] = 128 + (110 * scores[i]) / high;
  }
  return { width, height, rgba };
}

/** @param {Float32Array} rows @param {number} n */
function centre(rows, n) {
  for (let j = 0; j < n; j++) {
    let mean = 0;
    for (let i = 0; i < n; i++) mean += rows[i * n + j];
    mean /= n;
    for (let i = 0; i < n; i++) rows[i * n + j] -= mean;
  }
}

/** The strongest direction left in the rows, which is then taken out of them; each row's share of it.
 * @param {Float32Array} rows @param {number} n @param {number} seed @returns {Float32Array} */
function direction(rows, n, seed) {
  let along = Float32Array.from({ length: n }, (_, i) => Math.sin(i * 12.9898 + seed + 1));
  let scores = new Float32Array(n);
  for (let turn = 0; turn < TURNS; turn++) {
    const next = new Float32Array(n);
    for (let i = 0; i < n; i++) {
      let dot = 0;
      for (let j = 0; j < n; j++) dot += rows[i * n + j] * along[j];
      scores[i] = dot;
      for (let j = 0; j < n; j++) next[j] += rows[i * n + j] * dot;
    }
    const length = Math.hypot(...next) || 1;
    along = next.map((value) => value / length);
  }
  scores = scores.map((_, i) => {
    let dot = 0;
    for (let j = 0; j < n; j++) dot += rows[i * n + j] * along[j];
    return dot;
  });
  for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) rows[i * n + j] -= scores[i] * along[j];
  return scores;
}
