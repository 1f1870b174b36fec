// All runs as a tree: a branch stands under the run that it left, with what was changed.

import { html, nothing } from '../vendor/lit-html.js';
import { imageSnippets } from '../copy.js';
import { paths } from '../api.js';
import { ended, stepsOf, titleOf } from '../runs.js';
import { changed, valueOf } from '../parts/changes.js';
import { words } from '../parts/field.js';
import { empty } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';
import '../draw/raster.js';

/** @type {View} */
export const runs = {
  id: 'runs',
  title: 'Runs',
  group: 'Make',
  about: 'Everything that was generated, newest first. A branch stands under the run that it left.',
  needs: [],
  copy: imageSnippets,
  render(state, actions) {
    const all = state.order.map((id) => state.runs[id]).filter((run) => !run.recorded && !run.slot);
    if (!all.length) return empty('Nothing was generated yet. Write a prompt above and press Generate.');
    const roots = all.filter((run) => !run.from || !state.runs[run.from.job]).toReversed();
    return html`<ul class="tree" aria-label="Runs">
      ${roots.map((run) => node(state, actions, all, run))}
    </ul>`;
  },
};

/** @param {State} state @param {Actions} actions @param {Run[]} all @param {Run} run
 * @returns {unknown} */
function node(state, actions, all, run) {
  const below = all.filter((each) => each.from?.job === run.id);
  const chosen = run.id === state.current;
  return html`<li aria-current=${chosen ? 'true' : nothing}>
    <div class="node ${chosen ? 'on' : ''}">
      <button class="thumb" @click=${() => actions.open(run.id)} aria-label="Open ${titleOf(run)}, seed ${run.seeds[0]}">
        ${thumb(actions, run)}
      </button>
      <div class="about">
        <b>${titleOf(run)}</b>
        <span class="muted">${origin(state, run)}</span>
        <span class="row">
          ${
            ended(run.state) && !stepsOf(run)
              ? nothing
              : ended(run.state)
              ? html`<button class="link" @click=${() => (actions.open(run.id), actions.go('steps'))}>Look inside</button>
                <button class="link" @click=${() => (actions.open(run.id), actions.go('branch'))}>Branch</button>
                ${
                  chosen || !state.current
                    ? nothing
                    : html`<button class="link" @click=${() => (actions.compare(run.id), actions.go('compare'))}>Compare with the one shown</button>`
                }`
              : html`<button class="link" @click=${() => actions.cancel(run.id)}>Stop</button>`
          }
        </span>
      </div>
    </div>
    ${below.length ? html`<ul>${below.map((each) => node(state, actions, all, each))}</ul>` : nothing}
  </li>`;
}

/** @param {Actions} actions @param {Run} run */
function thumb(actions, run) {
  if (run.made[0]) return html`<img src=${paths.image(run.id)} alt="" loading="lazy" width="96" height="96" />`;
  const there = stepsOf(run);
  return there && !ended(run.state)
    ? html`<lab-raster .picture=${stepPreview(actions, run, there - 1) ?? null}></lab-raster>`
    : html`<i class="none">${run.state}</i>`;
}

/** Where a run comes from, in words. @param {State} state @param {Run} run */
function origin(state, run) {
  const parent = run.from && state.runs[run.from.job];
  if (run.state === 'failed') return `failed: ${run.error}`;
  if (!parent) {
    const said = ['prompt', 'seed', 'num_inference_steps', 'num_images_per_prompt', 'branch'];
    const others = Object.entries(run.request).filter(([name]) => !said.includes(name));
    const parts = [`seed ${run.seeds[0]}`, `${run.total} steps`, ...(run.images > 1 ? [`${run.images} images`] : [])];
    if (run.request.branch) parts.unshift(`after step ${run.request.branch.step} of a run that is not here`);
    if (run.inputs.image) parts.push(run.inputs.mask_image ? 'inpainting' : 'from an image');
    return [...parts, ...others.map(([name, value]) => `${words(name)} ${valueOf(value)}`)].join(' · ');
  }
  const what = changed(state, parent, run).map(([name, , value]) => `${words(name)} ${value}`);
  return `after step ${run.from?.step}: ${what.join(', ') || 'the latents painted over'}`;
}
