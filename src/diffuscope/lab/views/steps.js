// The run as it goes: latents, clean estimate and noise at each step, channel by channel, with their numbers.

import { html, nothing } from '../vendor/lit-html.js';
import { inspectionSnippets } from '../copy.js';
import { paths } from '../api.js';
import { histogram, lines, moments } from '../draw/plot.js';
import { largest, mapped, short } from '../draw/colours.js';
import { current, shownStep, stepsOf } from '../runs.js';
import { figure, pointed } from '../parts/figure.js';
import { preview } from '../parts/preview.js';
import { explained } from '../parts/terms.js';

/** @type {Record<string, [string, string]>} kind -> its title, and what it is */
const KINDS = {
  x: ['Latents', 'what the sampler holds after the step'],
  x0: ['Clean estimate', 'what the network expects at the end'],
  noise: ['Noise estimate', 'what it takes for noise in the latents'],
};

/** @type {View} */
export const steps = {
  id: 'steps',
  title: 'Steps',
  group: 'The run',
  about: 'Each step takes a part of the estimated noise away. Move through them in the strip below. Point at a cell to read it; click to follow it through the run.',
  needs: ['run', 'step'],
  copy: (state) => inspectionSnippets(state, 'steps', {}, 'x0'),
  render(state, actions) {
    const run = /** @type {Run} */ (current(state));
    const step = /** @type {number} */ (shownStep(state));
    const kind = state.local.stepKind ?? 'x0';
    const all = Object.fromEntries(Object.keys(KINDS).map((each) => [each, values(actions, run, step, each)]));
    const point = pointed(state, actions);
    const where = `step ${step + 1} of ${run.total}`;
    return html`<p class="where">
        After <b class="num">step ${step + 1}</b> of <span class="num">${run.total}</span>: ${explained('noise level', actions, 'level')}
        <span class="num">${short(run.sigmas[step] ?? 0)} → ${short(run.sigmas[step + 1] ?? 0)}</span>
      </p>
      <div class="cards four">
        ${decoded(run, step, kind, actions)}
        ${Object.entries(KINDS).map(([each, [title, about]]) =>
          figure({
            picture: preview(actions, all[each]),
            sentence: `${title} after ${where}, as colours: ${about}`,
            caption: html`<button
                class="kind"
                aria-pressed=${each === kind}
                @click=${() => actions.keep('stepKind', each)}
              >
                ${title}
              </button>
              <span>${all[each] === null ? 'not kept for this run' : about}</span>`,
            ...point,
            read: (x, y) => cell(all[each], x, y),
          }),
        )}
      </div>
      ${channels(all[kind], KINDS[kind][0], where, point)} ${followed(state, actions, run, step, kind)}`;
  },
};

/** An array of a step; the noise is computed from the latents before it and its clean estimate.
 * @param {Actions} actions @param {Run} run @param {number} step @param {string} kind
 * @returns {Values|undefined|null} */
function values(actions, run, step, kind) {
  if (run.recorded && kind !== 'x0') return null;
  if (kind !== 'noise') return actions.array(run.id, step, kind);
  const x0 = actions.array(run.id, step, 'x0');
  // Before the first step there are no latents of a step; those after it hold the same noise at a lower level.
  const first = step === 0 || run.steps[0] === 0;
  const x = actions.array(run.id, first ? 0 : step - 1, 'x');
  const sigma = run.sigmas[first ? 1 : step];
  if (!x0 || !x || !sigma) return x0 === null || x === null || sigma === 0 ? null : undefined;
  return noiseOf(x, x0, sigma);
}

/** @type {WeakMap<Values, Values>} */
const noises = new WeakMap();

/** @param {Values} x @param {Values} x0 @param {number} sigma @returns {Values} */
function noiseOf(x, x0, sigma) {
  let noise = noises.get(x0);
  if (!noise) {
    const data = x0.data.map((value, i) => (x.data[i] - value) / sigma);
    noises.set(x0, (noise = { shape: x0.shape, data }));
  }
  return noise;
}

/** @param {Run} run @param {number} step @param {string} kind @param {Actions} actions */
function decoded(run, step, kind, actions) {
  const shown = kind === 'x' ? 'x' : 'x0';
  const sentence = `${KINDS[shown][0]} after step ${step + 1}, decoded by the VAE`;
  const url = run.recorded ? 'opening/fox.webp' : paths.decoded(run.id, 0, step, shown);
  return html`<figure class="figure">
    <img src=${url} alt=${sentence} />
    <figcaption><b>Decoded</b> <span>${explained(`${KINDS[shown][0].toLowerCase()}, by the VAE`, actions, 'decoded')}</span></figcaption>
  </figure>`;
}

/** @param {Values|undefined|null} values @param {number} x @param {number} y */
function cell(values, x, y) {
  if (!values) return '';
  const [channels, height, width] = values.shape;
  const numbers = Array.from({ length: channels }, (_, c) => short(values.data[(c * height + y) * width + x], 2));
  return `${x},${y}:  ${numbers.join('  ')}`;
}

/** @param {Values|undefined|null} values @param {string} title @param {string} where @param {object} point */
function channels(values, title, where, point) {
  if (values === null) return html`<p class="muted">This run keeps no ${title.toLowerCase()} for this step.</p>`;
  const [count, height, width] = values?.shape ?? [4, 16, 16];
  const most = values ? largest(values.data) : 1;
  const size = width * height;
  return html`<h2 class="part">${title}, channel by channel</h2>
    <p class="muted legend">
      <span class="ramp signed"></span>
      <span class="num">${short(-most, 2)} … ${short(most, 2)}</span>
    </p>
    <div class="cards four">
      ${Array.from({ length: count }, (_, c) => {
        const own = values?.data.subarray(c * size, (c + 1) * size);
        const { mean, deviation } = moments(own ?? []);
        return figure({
          picture: values && mapped(values.data, width, height, 'signed', -most, most, c * size),
          sentence: `Channel ${c} of the ${title.toLowerCase()} after ${where}: mean ${short(mean)}, standard deviation ${short(deviation)}`,
          caption: own
            ? html`<b>${c}</b> <span class="num">mean ${short(mean, 2)}</span>
                <span class="num">std ${short(deviation, 2)}</span> ${histogram(own, most)}`
            : nothing,
          ...point,
          read: (x, y) => (own ? short(own[y * width + x]) : ''),
        });
      })}
    </div>`;
}

/** The selected position through the run. @param {State} state @param {Actions} actions @param {Run} run
 * @param {number} step @param {string} kind */
function followed(state, actions, run, step, kind) {
  const { position } = state.selection;
  if (!position) return nothing;
  const all = Array.from({ length: stepsOf(run) }, (_, k) => values(actions, run, k, kind));
  const count = all.find(Boolean)?.shape[0] ?? 0;
  const at = (/** @type {Values|undefined|null} */ each, /** @type {number} */ c) =>
    each ? each.data[(c * each.shape[1] + position[1]) * each.shape[2] + position[0]] : null;
  return html`<h2 class="part">Position ${position[0]},${position[1]} through the run</h2>
    ${lines({
      lines: Array.from({ length: count }, (_, c) => ({ name: `channel ${c}`, values: all.map((each) => at(each, c)) })),
      sentence: `${KINDS[kind][0]} at position ${position.join(', ')} over ${all.length} steps, one line a channel`,
      step,
      onStep: (to) => actions.select({ step: to }),
    })}`;
}
