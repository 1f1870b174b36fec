// Prompt-to-prompt: another prompt with the attention of this one, beside what it makes alone, with both maps.

import { html, nothing } from '../vendor/lit-html.js';
import { blocksOf, callsOf, callsThere, most, wordMap } from '../attention.js';
import { inspectionSnippets } from '../copy.js';
import { overlay } from '../draw/overlay.js';
import { dropdown, given, segments, slider, submits, waiting } from '../parts/experiment.js';
import { named } from '../parts/figure.js';
import { promptOf, wordsOf } from '../runs.js';
import { pictureOf } from '../tensors.js';

const KIND = 'prompt-to-prompt';

/** @type {View} */
export const edit = {
  id: 'edit',
  title: 'Prompt-to-prompt',
  group: 'Change',
  about: 'Change the prompt and keep the composition: the new prompt takes over the attention of the old one.',
  needs: ['model', 'run', 'whole'],
  render(state, actions) {
    const { made, entry, line, begin } = waiting(state, actions, KIND, optionsOf(state), 'Edit');
    return html`${form(state, actions, begin)}
    ${line}
    ${entry?.tensors.done ? shown(state, actions, entry, made) : nothing}`;
  },
  copy: (state) => inspectionSnippets(state, KIND, optionsOf(state), 'pictures'),
};

/** @param {State} state @returns {Record<string, any>} */
function optionsOf(state) {
  const own = { edit: suggestion(promptOf(state)), method: 'refine', cross: 0.8, self: 0.4, word: '', factor: 2, ...state.local.edit };
  return {
    edit: own.edit.trim() || suggestion(promptOf(state)),
    method: own.method,
    cross_fraction: own.cross,
    self_fraction: own.self,
    ...(own.word ? { word: own.word, factor: own.factor } : {}),
  };
}

/** A first edit to try: another colour, or one more word. @param {string} prompt */
const suggestion = (prompt) => {
  const colour = /\b(red|blue)\b/;
  return colour.test(prompt)
    ? prompt.replace(colour, (found) => (found === 'red' ? 'blue' : 'red'))
    : `a blue ${prompt.replace(/^an? /, '')}`;
};

/** @param {number} share of the steps */
const percent = (share) => `${Math.round(100 * share)}\u00a0%`;

/** @param {State} state @param {Actions} actions @param {() => void} begin */
function form(state, actions, begin) {
  const options = optionsOf(state);
  const set = (/** @type {object} */ change) => actions.keep('edit', { ...state.local.edit, ...change });
  const words = wordsOf(options.edit);
  return html`<form
    class="line-up controls"
    @submit=${submits(begin)}
  >
    <label class="setting grow"
      ><span class="name">Edited prompt</span>
      <input type="text" autocomplete="off" .value=${options.edit} @input=${given((edit) => set({ edit }))} />
    </label>
    ${segments('Words', [['refine', 'refine'], ['replace', 'replace']], options.method, (method) => set({ method }))}
    ${slider('Cross-attention kept', { min: 0, max: 1, step: 0.05, value: options.cross_fraction }, (cross) => set({ cross }), percent(options.cross_fraction))}
    ${slider('Self-attention kept', { min: 0, max: 1, step: 0.05, value: options.self_fraction }, (self) => set({ self }), percent(options.self_fraction))}
    ${dropdown(
      'Reweight',
      [['', 'no word'], ...words.map((word) => /** @type {[string, string]} */ ([word, word]))],
      options.word ?? '',
      (word) => set({ word }),
    )}
    ${options.word ? slider('by', { min: -2, max: 4, step: 0.25, value: options.factor }, (factor) => set({ factor }), `× ${options.factor}`) : nothing}
    <button class="primary" type="submit">Edit</button>
  </form>`;
}

/** @param {State} state @param {Actions} actions @param {Inspected} entry
 * @param {Record<string, any>} options */
function shown(state, actions, entry, options) {
  const { tensors, about } = entry;
  const names = [promptOf(state), `${options.edit}, edited`, `${options.edit}, made alone`];
  return html`<div class="cards">
      ${names.map((name, k) => named(pictureOf(tensors, k), name, name))}
    </div>
    ${about && callsThere(tensors, 'source.') ? maps(state, actions, tensors, about) : nothing}`;
}

/** @param {State} state @param {Actions} actions @param {Tensors} tensors @param {any} about */
function maps(state, actions, tensors, about) {
  const blocks = blocksOf(tensors, 'source.');
  const block = blocks.includes(state.selection.block ?? '') ? state.selection.block : null;
  const pairs = about.edit.words.map((/** @type {any} */ each, /** @type {number} */ k) => ({
    edit: each.word,
    source: about.source.words[Math.min(k, about.source.words.length - 1)].word,
  }));
  const word = Math.min(state.selection.word ?? Math.max(0, pairs.findIndex((/** @type {any} */ each) => each.edit !== each.source)), pairs.length - 1);
  const sides = [
    ['source', 0, Math.min(word, about.source.words.length - 1), about.source],
    ['edit', 1, word, about.edit],
  ];
  return html`<h2 class="over">Attention to one word, in both</h2>
    <ol class="pieces">
      ${pairs.map(
        (/** @type {any} */ each, /** @type {number} */ k) => html`<li>
          <button class="piece" aria-pressed=${k === word} @click=${() => actions.select({ word: k })}>
            ${each.edit === each.source ? each.edit : html`${each.source} → <b>${each.edit}</b>`}
          </button>
        </li>`,
      )}
    </ol>
    <div class="cards">
      ${sides.map(([name, picture, k, labels]) => {
        const prefix = `${name}.`;
        const calls = callsOf(about, state.selection.step, callsThere(tensors, prefix));
        const field = wordMap(tensors, /** @type {number} */ (k), { ...calls, block, head: null }, prefix);
        const said = /** @type {any} */ (labels).words[/** @type {number} */ (k)].word;
        const where = `in the ${name === 'source' ? 'prompt' : 'edit'}`;
        const share = `${(100 * most(field)).toFixed(1)} %`;
        return named(
          overlay(field, pictureOf(tensors, /** @type {number} */ (picture)), most(field)),
          said,
          `Attention to “${said}” ${where}: at most ${share}`,
          ` · ${where} · brightest ${share}`,
        );
      })}
    </div>`;
}
