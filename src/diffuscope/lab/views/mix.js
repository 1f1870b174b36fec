// Mixing meanings: pictures on the way from a prompt to another, or from a word of it to another.

import { html } from '../vendor/lit-html.js';
import { inspectionSnippets } from '../copy.js';
import { dropdown, given, segments, slider, submits, waiting } from '../parts/experiment.js';
import { promptOf, wordsOf } from '../runs.js';
import { pictureOf } from '../tensors.js';

const KIND = 'blend';

/** @type {View} */
export const mix = {
  id: 'mix',
  title: 'Mix',
  group: 'Text',
  about: 'Between two meanings: blend the prompt with another, or one of its words with another word.',
  needs: ['model', 'run'],
  render(state, actions) {
    const { made, entry, line, begin } = waiting(state, actions, KIND, optionsOf(state), 'Mix');
    return html`${form(state, actions, begin)}
    ${line}
    ${entry ? pictures(state, actions, entry, made) : ''}`;
  },
  copy: (state) => inspectionSnippets(state, KIND, optionsOf(state), 'pictures'),
};

/** @param {State} state @returns {Record<string, any>} */
function optionsOf(state) {
  const { to = 'a blue car', word = '', count = 5, method = 'lerp' } = state.local.mix ?? {};
  return { to: to.trim() || 'a blue car', ...(word ? { word } : {}), count, method };
}

/** @param {State} state @param {Actions} actions @param {() => void} begin */
function form(state, actions, begin) {
  const options = optionsOf(state);
  const set = (/** @type {object} */ change) => actions.keep('mix', { ...state.local.mix, ...change });
  const words = wordsOf(promptOf(state));
  return html`<form
    class="line-up controls"
    @submit=${submits(begin)}
  >
    ${dropdown(
      'Change',
      [['', 'the whole prompt'], ...words.map((word) => /** @type {[string, string]} */ ([word, `the word “${word}”`]))],
      options.word ?? '',
      (word) => set({ word }),
    )}
    <label class="setting grow"
      ><span class="name">${options.word ? 'into the word' : 'into the prompt'}</span>
      <input
        type="text"
        autocomplete="off"
        .value=${options.to}
        @input=${given((to) => set({ to }))}
      />
    </label>
    ${slider('Pictures', { min: 2, max: 9, step: 1, value: options.count }, (count) => set({ count }))}
    ${segments('Path', [['lerp', 'straight'], ['slerp', 'arc']], options.method, (method) => set({ method }))}
    <button class="primary" type="submit">Mix</button>
  </form>`;
}

/** @param {State} state @param {Actions} actions @param {Inspected} entry
 * @param {Record<string, any>} options */
function pictures(state, actions, entry, options) {
  const count = options.count;
  const from = options.word ?? promptOf(state);
  return html`<ol class="film even">
    ${Array.from({ length: count }, (_, k) => {
      const share = Math.round((100 * k) / (count - 1));
      const name = k === 0 ? from : k === count - 1 ? options.to : `${share} %`;
      const picture = pictureOf(entry.tensors, k);
      return html`<li class="shown">
        ${
          picture
            ? html`<lab-raster class="smooth" .picture=${picture} .label=${`${share} % of the way from ${from} to ${options.to}`}></lab-raster>`
            : html`<i class="waiting"></i>`
        }
        <small>${name}</small>
      </li>`;
    })}
  </ol>`;
}
