// Generate: the picture large, and every option of a call beside it.

import { html, nothing } from '../vendor/lit-html.js';
import { imageSnippets } from '../copy.js';
import { paths } from '../api.js';
import { unmet } from '../needs.js';
import { current, ended, shownStep, titleOf } from '../runs.js';
import { short } from '../draw/colours.js';
import { submits } from '../parts/experiment.js';
import { figure, photo } from '../parts/figure.js';
import { form, optionsOf } from '../parts/form.js';
import { inputs, restored } from '../parts/inputs.js';
import { stepPreview } from '../parts/preview.js';
import { explained } from '../parts/terms.js';

/** @type {View} */
export const generate = {
  id: 'generate',
  title: 'Generate',
  group: 'Make',
  about: 'From a prompt to a picture. What is left empty is the model’s preset. Drop a picture on the page to use its settings.',
  needs: [],
  copy: imageSnippets,
  render(state, actions) {
    const follow = {
      onInput: () => state.live && actions.live(),
      onChange: () => state.live && actions.generate(),
    };
    return html`${restored(state, actions)} ${follows(state, actions)}<div class="split">
      <div class="stage">
        ${stage(state, actions)}
        ${(current(state)?.notes ?? []).map((note) => html`<p class="warned" role="status">Note: ${note}.</p>`)}
        ${inputs(state, actions)}
      </div>
      <form class="panel" aria-label="Options" @submit=${submits(actions.generate)}>
        ${draws(state, actions)} ${adapters(state, actions)} ${state.about ? form(state, actions, follow) : html`<p class="muted">${unmet(['model'], state)}</p>`}
        <button type="submit" hidden></button>
      </form>
    </div>`;
  },
};

/** That the next run begins with the steps of another one. @param {State} state @param {Actions} actions */
function follows({ options }, actions) {
  if (!options.branch) return nothing;
  const leave = () => (actions.setOptions({ branch: undefined }), actions.generate());
  return html`<p class="note">
    Up to step ${options.branch.step} it follows another run. <button type="button" class="link" @click=${leave}>Generate all steps</button>
  </p>`;
}

/** What the model says that it draws, and prompts of it to begin with. @param {State} state @param {Actions} actions */
function draws({ about }, actions) {
  if (!about?.draws) return nothing;
  return html`<div class="draws row">
    <p>This model draws ${about.draws}.</p>
    ${about.examples.map(
      (prompt) => html`<button type="button" class="kind" @click=${() => (actions.setOptions({ prompt }), actions.generate())}>${prompt}</button>`,
    )}
  </div>`;
}

/** LoRAs and learned words, each added to the prompt by a click. @param {State} state @param {Actions} actions */
function adapters({ about }, actions) {
  const names = (about?.loras ?? []).map((name) => /** @type {const} */ ([name, `<lora:${name}:1>`]));
  const words = (about?.embeddings ?? []).map((word) => /** @type {const} */ ([word, word]));
  const add = (/** @type {string} */ text) => {
    const { prompt = '' } = actions.state().options;
    actions.setOptions({ prompt: `${[prompt].flat()[0]} ${text}`.trim() });
  };
  const row = (/** @type {string} */ title, /** @type {(readonly [string, string])[]} */ all) =>
    all.length
      ? html`<div class="draws row">
          <p>${title}</p>
          ${all.map(([name, text]) => html`<button type="button" class="kind" title="add ${text}" @click=${() => add(text)}>${name}</button>`)}
        </div>`
      : nothing;
  return html`${row('LoRAs, at a weight that the prompt says', names)} ${row('Learned words', words)}`;
}

/** @param {State} state @param {Actions} actions */
function stage(state, actions) {
  const run = current(state);
  if (!run) return html`<div class="figure"><div class="waiting"></div></div>`;
  const step = shownStep(state);
  if (run.state === 'failed') return html`<div class="empty"><p>The run failed: ${run.error}</p></div>`;
  const title = titleOf(run);
  if (run.made.includes(true) && state.selection.step === null) {
    if (run.images > 1) return gallery(run, actions);
    return photo(pictureOf(run), title, facts(state, run, actions));
  }
  let shown = step;
  let picture = step === null ? undefined : stepPreview(actions, run, step);
  // What is there stays until there is more: steps whose array is here, and before the first one the picture before.
  if (state.selection.step === null) while (!picture && shown) picture = stepPreview(actions, run, --shown);
  const caption = run.state === 'running' ? 'the first step is on its way' : waits(state, run);
  const before = state.order.map((id) => state.runs[id]).findLast((each) => each !== run && each.made[0]);
  if (!picture && before && state.selection.step === null)
    return photo(pictureOf(before), `${title}: ${caption}; this is ${titleOf(before)}`, caption, 'before');
  if (shown === null) return figure({ picture, sentence: title, caption });
  return figure({
    picture,
    sentence: `${title}: clean estimate after step ${shown + 1} of ${run.total}`,
    caption: stepFacts(run, shown, actions),
  });
}

/** What a run waits for. @param {State} state @param {Run} run */
function waits(state, run) {
  const before = Object.values(state.runs).filter((each) => each !== run && !each.recorded && !ended(each.state)).length;
  return before ? `waiting for its turn behind ${before} more` : 'waiting for the call that is computed now';
}

/** @param {Run} run */
const pictureOf = (run) => (run.recorded ? 'opening/fox.webp' : paths.image(run.id));

/** @param {Run} run @param {Actions} actions */
const gallery = (run, actions) => html`<div class="tiles">
  ${Array.from({ length: run.images }, (_, k) =>
    run.made[k]
      ? html`<figure class="figure">
          <a href=${paths.image(run.id, k)} target="_blank"
            ><img src=${paths.image(run.id, k)} alt="${titleOf(run)}, seed ${run.seeds[k]}"
          /></a>
          <figcaption>
            <span class="num">seed ${run.seeds[k]}</span>
            <a href=${paths.image(run.id, k)} download="diffuscope-${run.seeds[k]}.png">Save PNG</a>
            <button class="link" @click=${() => actions.useImage(paths.image(run.id, k))}>Start from this image</button>
          </figcaption>
        </figure>`
      : html`<div class="waiting"></div>`,
  )}
</div>`;

/** @param {Actions} actions */
function another(actions) {
  actions.setOptions({ seed: Math.floor(Math.random() * 2 ** 31) });
  actions.generate();
}

/** How many steps were made; from an image, of how many. @param {State} state @param {Run} run */
function stepsSaid(state, run) {
  const all = run.request.num_inference_steps ?? state.about?.preset.num_inference_steps;
  const strength = run.request.strength ?? optionsOf(state).strength?.default;
  return run.inputs.image && all > run.total ? `${run.total} of ${all} steps, at strength ${strength}` : `${run.total} steps`;
}

/** @param {State} state @param {Run} run @param {Actions} actions */
function facts(state, run, actions) {
  if (run.recorded) return html`recorded with the emoji model; yours appears here`;
  const file = paths.image(run.id);
  return html`<span class="num">seed ${run.seeds[0]}</span>
    <span class="num">${stepsSaid(state, run)}</span>
    ${run.request.branch ? html`<span>after step ${run.request.branch.step} of another run</span>` : nothing}
    <button class="link" @click=${() => actions.go('attention')}>Where the words went</button>
    <a href=${file} download="diffuscope-${run.seeds[0]}.png">Save PNG</a>
    ${
      state.options.seed === undefined
        ? html`<button class="link" @click=${() => actions.setOptions({ seed: run.seeds[0] })}>Keep seed</button>`
        : html`<button class="link" @click=${() => another(actions)}>Another seed</button>`
    }
    <button class="link" @click=${() => actions.useImage(file)}>Start from this image</button>`;
}

/** @param {Run} run @param {number} step @param {Actions} actions */
const stepFacts = (run, step, actions) => html`<span
  >${explained('clean estimate', actions, 'shown')} after step <span class="num">${step + 1} of ${run.total}</span>, ${explained('noise level', actions, 'level')}
  <span class="num">${short(run.sigmas[step + 1] ?? 0)}</span>${ended(run.state) ? nothing : ' …'}</span
>`;
