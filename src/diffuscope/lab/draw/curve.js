// Curves as SVG: elements that one can name, focus and style.

import { svg } from '../vendor/lit-html.js';

/** @param {number} from @param {number} to @param {number} start @param {number} end */
export function linear(from, to, start, end) {
  const factor = (end - start) / (to - from || 1);
  return {
    at: (/** @type {number} */ value) => start + (value - from) * factor,
    back: (/** @type {number} */ position) => from + (position - start) / factor,
  };
}

/** Logarithmic, from a value above 0. @param {number} from @param {number} to @param {number} start
 * @param {number} end */
export function logarithmic(from, to, start, end) {
  const inner = linear(Math.log(from), Math.log(to), start, end);
  return {
    at: (/** @type {number} */ value) => inner.at(Math.log(Math.max(value, from))),
    back: (/** @type {number} */ position) => Math.exp(inner.back(position)),
  };
}

/** @param {[number, number][]} points @returns {string} */
export const path = (points) =>
  points.map(([x, y], k) => `${k ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}`).join('');

/** Round values between two bounds. @param {number} from @param {number} to @param {number} count */
export function ticks(from, to, count) {
  const rough = (to - from) / Math.max(1, count);
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * size).find((k) => k >= rough) ?? rough;
  const values = [];
  for (let value = Math.ceil(from / step) * step; value <= to + step / 1e6; value += step) values.push(value);
  return values;
}

/** Powers of ten and their parts between two bounds. @param {number} from @param {number} to */
export function powers(from, to) {
  const values = [];
  for (let e = Math.floor(Math.log10(from)); e <= Math.ceil(Math.log10(to)); e++)
    for (const k of [1, 3]) if (k * 10 ** e >= from && k * 10 ** e <= to) values.push(k * 10 ** e);
  return values;
}

/** Lines and labels of the vertical axis. @param {number[]} values @param {(v: number) => number} at
 * @param {number} left @param {number} right @param {(v: number) => string} text */
export const grid = (values, at, left, right, text = String) =>
  values.map(
    (value) => svg`<line class="grid" x1=${left} x2=${right} y1=${at(value)} y2=${at(value)}></line>
      <text class="tick" x=${left - 6} y=${at(value)} text-anchor="end" dominant-baseline="middle">${text(value)}</text>`,
  );
