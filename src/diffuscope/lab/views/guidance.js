// Guidance taken apart: the estimate with the prompt, the one without, their difference, and what a scale makes of them.

import { html, nothing } from '../vendor/lit-html.js';
import { inspectionSnippets } from '../copy.js';
import { lines } from '../draw/plot.js';
import { between, mapped, short } from '../draw/colours.js';
import { current, shownStep, stepsOf } from '../runs.js';
import { given } from '../parts/experiment.js';
import { empty, figure, pointed } from '../parts/figure.js';
import { preview } from '../parts/preview.js';

/** @type {View} */
export const guidance = {
  id: 'guidance',
  title: 'Guidance',
  group: 'The run',
  about: 'Each step asks the network twice, with the prompt and without, and goes further in the direction in which they differ.',
  needs: ['run', 'live', 'step', 'guided'],
  copy: (state) => inspectionSnippets(state, 'guidance', {}, 'cond'),
  render(state, actions) {
    const run = /** @type {Run} */ (current(state));
    const step = /** @type {number} */ (shownStep(state));
    const [cond, uncond] = answers(state, actions, run, step);
    const used = scaleOf(state, run);
    const scale = state.local.guidanceScale ?? used;
    const point = pointed(state, actions);
    const where = `in step ${step + 1} of ${run.total}`;
    const apart = cond && uncond ? difference(cond, uncond) : undefined;
    const mixed = cond && uncond ? combined(cond, uncond, scale) : undefined;
    const cell = (/** @type {Values|undefined} */ values) => (/** @type {number} */ x, /** @type {number} */ y) =>
      values ? numbers(values, x, y) : '';
    if (cond === null) return empty('This step is kept from another run, which is not here. Choose a later one in the strip below.');
    return html`<div class="equation">
        ${figure({
          picture: preview(actions, uncond),
          sentence: `Estimate without the prompt ${where}`,
          caption: html`<b>without the prompt</b> <span>uncond</span>`,
          ...point,
          read: cell(uncond ?? undefined),
        })}
        <span class="sign" aria-hidden="true">+ <b class="num">${short(scale, 1)}</b> ×</span>
        ${figure({
          picture: apart && mapped(apart.sizes, apart.width, apart.height, 'heat', 0, apart.most),
          sentence: `Size of the difference that the prompt makes ${where}, at most ${short(apart?.most ?? 0)}`,
          caption: html`<b>difference</b> <span class="num">at most ${short(apart?.most ?? 0, 2)}</span>`,
          ...point,
          read: (x, y) => (apart ? short(apart.sizes[y * apart.width + x]) : ''),
        })}
        <span class="sign" aria-hidden="true">=</span>
        ${figure({
          picture: preview(actions, mixed),
          sentence: `Estimate with guidance ${short(scale, 1)} ${where}`,
          caption: html`<b>guided</b> <span>uncond + ${short(scale, 1)} × (cond − uncond)</span>`,
          ...point,
          read: cell(mixed),
        })}
        ${figure({
          picture: preview(actions, cond),
          sentence: `Estimate with the prompt ${where}`,
          caption: html`<b>with the prompt</b> <span>cond: the same at scale 1</span>`,
          ...point,
          read: cell(cond ?? undefined),
        })}
      </div>
      <div class="tools-row">
        <label class="wide"
          >guidance scale
          <input
            type="range"
            min="-2"
            max="14"
            step="0.1"
            .value=${String(scale)}
            @input=${given((text) => actions.keep('guidanceScale', Number(text)))}
          />
          <output>${short(scale, 1)}</output></label
        >
        <button class="primary" @click=${() => actions.generate({ guidance_scale: scale })}>
          Generate with ${short(scale, 1)}
        </button>
        <button @click=${() => actions.branch(run.id, step, { guidance_scale: scale })}>
          Branch from this step
        </button>
        ${
          scale === used
            ? nothing
            : html`<button class="quiet" @click=${() => actions.keep('guidanceScale', undefined)}>
                Back to ${short(used, 1)}
              </button>`
        }
      </div>
      ${strength(state, actions, run, step)}`;
  },
};

/** The estimates of a step, with the prompt and without; a kept step of a branch has them in the run that it left.
 * @param {State} state @param {Actions} actions @param {Run} run @param {number} step */
function answers(state, actions, run, step) {
  let own = run;
  const isKept = () => step < (own.request.branch?.step ?? 0);
  while (isKept() && own.from && state.runs[own.from.job]) own = state.runs[own.from.job];
  return ['cond', 'uncond'].map((kind) => (isKept() ? null : actions.array(own.id, step, kind)));
}

/** The guidance scale of a run. @param {State} state @param {Run} run */
export const scaleOf = (state, run) =>
  run.request.guidance_scale ?? /** @type {any} */ (state.about?.preset)?.guidance_scale ?? 1;

/** @param {Values} values @param {number} x @param {number} y */
function numbers({ data, shape: [channels, height, width] }, x, y) {
  return Array.from({ length: channels }, (_, c) => short(data[(c * height + y) * width + x], 2)).join('  ');
}

/** @type {WeakMap<Values, ReturnType<typeof between>>} */
const differences = new WeakMap();

/** @param {Values} cond @param {Values} uncond */
function difference(cond, uncond) {
  let made = differences.get(cond);
  if (!made) differences.set(cond, (made = between(cond, uncond)));
  return made;
}

/** @type {{cond: Values, scale: number, made: Values}|null} */
let last = null;

/** @param {Values} cond @param {Values} uncond @param {number} scale @returns {Values} */
function combined(cond, uncond, scale) {
  if (last && last.cond === cond && last.scale === scale) return last.made;
  const made = { shape: cond.shape, data: uncond.data.map((value, i) => value + scale * (cond.data[i] - value)) };
  last = { cond, scale, made };
  return made;
}

/** How much the prompt matters, step by step. @param {State} state @param {Actions} actions @param {Run} run
 * @param {number} step */
function strength(state, actions, run, step) {
  const values = Array.from({ length: stepsOf(run) }, (_, k) => {
    const [cond, uncond] = answers(state, actions, run, k);
    return cond && uncond ? difference(cond, uncond).mean : null;
  });
  return html`<h2 class="part">How much the prompt changes the estimate</h2>
    <p class="muted">Root mean square of cond − uncond in each step.</p>
    ${lines({
      lines: [{ name: 'difference', values }],
      sentence: `Root mean square of the difference between the estimates with and without the prompt, over ${values.length} steps`,
      step,
      onStep: (to) => actions.select({ step: to }),
      zero: true,
    })}`;
}
