// Small plots: a histogram, and lines over the steps of a run in which a step can be picked.

import { html, nothing, svg } from '../vendor/lit-html.js';
import { grid, linear, path, ticks } from './curve.js';
import { short } from './colours.js';

const WIDTH = 960;

/**
 * How values are spread, with the share of cells as bars.
 * @param {ArrayLike<number>} values @param {number} most the axis goes from -most to most
 */
export function histogram(values, most) {
  const bins = new Array(41).fill(0);
  for (let i = 0; i < values.length; i++) {
    const at = Math.floor(((values[i] + most) / (2 * most || 1)) * bins.length);
    bins[Math.max(0, Math.min(bins.length - 1, at))] += 1;
  }
  const top = Math.max(...bins, 1);
  return svg`<svg class="spread" viewBox="0 0 164 36" preserveAspectRatio="none" aria-hidden="true">
    ${bins.map((count, k) => svg`<rect x=${k * 4} width="3.4" y=${34 - (32 * count) / top} height=${(32 * count) / top + 1}></rect>`)}
  </svg>`;
}

/** @param {ArrayLike<number>} values */
export function moments(values) {
  let sum = 0;
  let squares = 0;
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < values.length; i++) {
    sum += values[i];
    squares += values[i] ** 2;
    low = Math.min(low, values[i]);
    high = Math.max(high, values[i]);
  }
  const mean = sum / values.length;
  return { mean, deviation: Math.sqrt(Math.max(0, squares / values.length - mean ** 2)), low, high };
}

/**
 * Lines over the steps. The selected step is marked; a click or the arrow keys of the timeline pick another.
 * @param {{lines: {name: string, values: (number|null)[]}[], sentence: string, step: number|null,
 *   onStep?: (step: number) => void, zero?: boolean, height?: number}} what
 */
export function lines({ lines, sentence, step, onStep, zero = false, height = 210 }) {
  const all = lines.flatMap((line) => line.values.filter((value) => value !== null && Number.isFinite(value)));
  if (!all.length) return html`<div class="waiting plot"></div>`;
  const count = Math.max(...lines.map((line) => line.values.length));
  const numbers = /** @type {number[]} */ (all);
  let low = Math.min(...numbers, zero ? 0 : Infinity);
  let high = Math.max(...numbers, zero ? 0 : -Infinity);
  if (high - low < 1e-9) [low, high] = [low - 1, high + 1];
  const [left, right, top, bottom] = [52, WIDTH - 12, 10, height - 22];
  const x = linear(0, Math.max(1, count - 1), left + 6, right - 6);
  const y = linear(low, high, bottom, top);
  const pick = (/** @type {MouseEvent} */ event) => {
    const box = /** @type {Element} */ (event.currentTarget).getBoundingClientRect();
    const at = Math.round(x.back(((event.clientX - box.left) / box.width) * WIDTH));
    onStep?.(Math.max(0, Math.min(count - 1, at)));
  };
  return html`<figure class="plot" tabindex="0">
    <svg viewBox="0 0 ${WIDTH} ${height}" role="img" aria-label=${sentence} @click=${pick} class=${onStep ? 'picks' : ''}>
      ${grid(ticks(low, high, 4), y.at, left, right, (value) => short(value, 2))}
      ${step === null ? nothing : svg`<line class="now" x1=${x.at(step)} x2=${x.at(step)} y1=${top} y2=${bottom}></line>`}
      ${lines.map(({ values }, k) => {
        const points = /** @type {[number, number][]} */ (
          values.map((value, i) => (value === null ? null : [x.at(i), y.at(value)])).filter(Boolean)
        );
        return svg`<path class="line c${k}" d=${path(points)}></path>
          ${points.map(([px, py]) => svg`<circle class="c${k}" cx=${px} cy=${py} r="2.5"></circle>`)}`;
      })}
      ${ticks(0, count - 1, Math.min(count, 12)).map(
        (k) => svg`<text class="tick" x=${x.at(k)} y=${height - 6} text-anchor="middle">${k + 1}</text>`,
      )}
    </svg>
    ${
      lines.length > 1
        ? html`<figcaption>${lines.map((line, k) => html`<span class="key c${k}">${line.name}</span>`)}</figcaption>`
        : nothing
    }
  </figure>`;
}
