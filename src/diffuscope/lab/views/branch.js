// Branch: go on from a step of a run with something changed: the prompt, the guidance, the sampler, or the latents
// themselves, painted over.

import { html, nothing } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import { imageSnippets } from '../copy.js';
import { current, ended, shownStep, titleOf } from '../runs.js';
import { short } from '../draw/colours.js';
import { brushed, latentsOf, stroke } from '../painting.js';
import { given, submits } from '../parts/experiment.js';
import { field } from '../parts/field.js';
import { optionsOf } from '../parts/form.js';
import { changes } from '../parts/changes.js';
import { preview, rgbOf, stepPreview } from '../parts/preview.js';
import '../draw/raster.js';

/** @typedef {{job: string, step: number, x: Values, x0: Values, strokes: number}} Painted */

const NAMES = ['prompt', 'negative_prompt', 'guidance_scale', 'sampler'];

/** @type {View} */
export const branch = {
  id: 'branch',
  title: 'Branch',
  group: 'Change',
  about: 'Keep the first steps of a run, change something, and go on from there. Choose the step in the strip below.',
  needs: ['run', 'live', 'step'],
  copy: imageSnippets,
  render(state, actions) {
    const run = /** @type {Run} */ (current(state));
    const shown = /** @type {number} */ (shownStep(state));
    const step = Math.min(shown, Math.max(0, run.total - 2));
    const change = changeOf(state, run);
    const painted = paintedOf(state, run, step);
    const nothingChanged = !Object.keys(change).length && !painted;
    return html`<div class="split">
      <div class="stage">
        ${result(state, actions, run)} ${canvas(state, actions, run, step, painted)}
      </div>
      <form class="panel form" aria-label="What changes" @submit=${submits(() => {
        const now = actions.state(); // Enter may come before the next rendering
        const paint = paintedOf(now, run, step);
        actions.branch(run.id, step, changeOf(now, run), paint ? latentsOf(paint.x) : null);
      })}>
        <h2>After step ${step + 1} of ${run.total}</h2>
        <p class="muted">${step + 1} ${step ? 'steps are' : 'step is'} kept, ${run.total - step - 1} run anew.</p>
        ${NAMES.map((name) => one(state, actions, run, name, change))}
        <button type="submit" class="primary" ?disabled=${!ended(run.state)}>
          ${nothingChanged ? 'Repeat from here' : 'Branch from here'}
        </button>
        ${nothingChanged ? html`<p class="muted">With nothing changed a branch equals its run, to the last bit.</p>` : nothing}
      </form>
    </div>`;
  },
};

/** What is changed for this run. @param {State} state @param {Run} run @returns {Record<string, any>} */
function changeOf(state, run) {
  const kept = state.local.branch;
  return kept?.job === run.id ? kept.change : {};
}

/** @param {State} state @param {Run} run @param {number} step @returns {Painted|null} */
function paintedOf(state, run, step) {
  const kept = /** @type {Painted|undefined} */ (state.local.painted);
  return kept && kept.job === run.id && kept.step === step ? kept : null;
}

/** @param {State} state @param {Actions} actions @param {Run} run @param {string} name @param {Record<string, any>} change */
function one(state, actions, run, name, change) {
  const schema = optionsOf(state)[name];
  if (!schema) return nothing;
  const preset = /** @type {any} */ (state.about?.preset);
  const before = run.request[name] ?? preset[name] ?? '';
  const set = (/** @type {any} */ value) => {
    const next = { ...changeOf(actions.state(), run), [name]: value };
    if (value === undefined || value === before) delete next[name];
    actions.keep('branch', { job: run.id, change: next });
  };
  if (name !== 'sampler')
    return field({
      ...{ name, schema, value: change[name], preset: before, onInput: set },
      filled: typeof before === 'string',
    });
  const rows = state.about?.samplers ?? [];
  return html`<div class="field choice">
    <label for="branch-sampler">sampler</label>
    <select id="branch-sampler" .value=${change.sampler ?? before} @change=${given(set)}>
      ${rows.map((row) => html`<option value=${row.name} ?selected=${row.name === (change.sampler ?? before)}>${row.label}</option>`)}
    </select>
  </div>`;
}

/** The clean estimate, to be painted over. @param {State} state @param {Actions} actions @param {Run} run
 * @param {number} step @param {Painted|null} painted */
function canvas(state, actions, run, step, painted) {
  const [x, x0, rgb] = [actions.array(run.id, step, 'x'), actions.array(run.id, step, 'x0'), rgbOf(actions)];
  const shown = painted?.x0 ?? x0;
  const { tool, colour, size } = { tool: 'colour', colour: '#2f6fd0', size: 1, ...state.local.brushes };
  const set = (/** @type {object} */ change) => actions.keep('brushes', { tool, colour, size, ...change });
  const paint = (/** @type {CustomEvent} */ event) => {
    if (!x || !x0 || !rgb) return;
    const now = paintedOf(actions.state(), run, step) ?? { x, x0, strokes: 0 };
    const [, height, width] = x.shape;
    const cells = brushed(event.detail[0], event.detail[1], size, width, height);
    const made = stroke(now, cells, tool === 'colour' ? colour : null, run.sigmas[step + 1], rgb);
    actions.keep('painted', { job: run.id, step, strokes: now.strokes + 1, ...made });
  };
  return html`<figure class="figure">
    ${
      shown && x && rgb // what is painted before all are here would be lost
        ? html`<lab-raster
            .selects=${true}
            .paints=${true}
            .picture=${preview(actions, shown) ?? null}
            .label=${`Clean estimate after step ${step + 1}, as colours. Drag to paint; arrow keys move, space paints.`}
            @paint=${paint}
          ></lab-raster>`
        : html`<div class="waiting"></div>`
    }
    <figcaption class="brushes">
      <span class="segments" role="group" aria-label="Brush">
        <button type="button" aria-pressed=${tool === 'colour'} @click=${() => set({ tool: 'colour' })}>Colour</button>
        <button type="button" aria-pressed=${tool === 'noise'} @click=${() => set({ tool: 'noise' })}>Noise</button>
      </span>
      ${
        tool === 'colour'
          ? html`<input type="color" aria-label="Colour of the brush" .value=${colour} @input=${given((colour) => set({ colour }))} />`
          : html`<span>forgets what was there</span>`
      }
      <label>size <input type="range" min="0" max="5" step="0.5" .value=${String(size)} @input=${given((size) => set({ size: Number(size) }))} /></label>
      ${painted ? html`<button type="button" @click=${() => actions.keep('painted', null)}>Take the paint away</button>` : nothing}
      <span class="muted">Paint on the picture: the clean estimate at noise level <span class="num">${short(run.sigmas[step + 1] ?? 0)}</span></span>
    </figcaption>
  </figure>`;
}

/** A branch beside the run that it left. @param {State} state @param {Actions} actions @param {Run} run */
function result(state, actions, run) {
  const parent = run.from ? state.runs[run.from.job] : null;
  if (!parent) return nothing;
  const one = (/** @type {Run} */ each, /** @type {string} */ title) => html`<figure class="figure">
    ${
      each.made[0]
        ? html`<img src=${paths.image(each.id)} alt="${title}: ${titleOf(each)}" />`
        : html`<lab-raster .picture=${stepPreview(actions, each, Math.max(0, (each.steps[0] ?? 1) - 1)) ?? null}></lab-raster>`
    }
    <figcaption><span><b>${title}</b> ${titleOf(each)}</span></figcaption>
  </figure>`;
  return html`<section>
    <h2>This run branched after step ${run.from?.step}</h2>
    ${changes(state, parent, run)}
    <div class="cards pair">${one(parent, 'before')} ${one(run, 'after')}</div>
    <div class="row">
      <button type="button" @click=${() => actions.open(parent.id)}>Back to the run before</button>
      <button type="button" @click=${() => (actions.compare(parent.id), actions.go('compare'))}>Compare step by step</button>
    </div>
  </section>`;
}
