// The text encoder layer by layer: a picture from each layer's states, and which token attends to which.

import { html } from '../vendor/lit-html.js';
import { inspectionSnippets } from '../copy.js';
import { mapped } from '../draw/colours.js';
import { bar, experiment, progress, segments } from '../parts/experiment.js';
import { figure } from '../parts/figure.js';
import { part, pictureOf } from '../tensors.js';

const KIND = 'layers';

/** @type {View} */
export const layers = {
  id: 'layers',
  title: 'Text layers',
  group: 'Text',
  about: 'What the text encoder knows after each of its layers: stop it there, and make a picture of what it has so far.',
  needs: ['model', 'run', 'oneEncoder'],
  render(state, actions) {
    const { entry, start, soon } = experiment(state, KIND);
    const count = state.about?.text_encoders?.[0]?.layers ?? 12;
    const line = progress(entry, {
      title: 'A picture from each layer',
      costs: `${count + 1} runs with the same seed: from the embeddings, and after each of ${count} layers.`,
      start,
      soon,
    });
    return html`${line}${entry?.about ? shown(state, actions, entry) : ''}`;
  },
  copy: (state) => inspectionSnippets(state, KIND, {}, 'pictures'),
};

/** @param {State} state @param {Actions} actions @param {Inspected} entry */
function shown(state, actions, entry) {
  const { tensors, about } = entry;
  const count = about.layers;
  const layer = Math.min(state.local.layer ?? Math.ceil(count / 2), count);
  const name = (/** @type {number} */ k) => (k === 0 ? 'embeddings' : `layer ${k}`);
  return html`<ol class="film">
      ${Array.from({ length: count + 1 }, (_, k) => {
        const picture = pictureOf(tensors, k);
        return html`<li>
          <button
            class="tile"
            aria-pressed=${k === layer}
            aria-label="The picture from the ${name(k)}${picture ? '' : ', on its way'}"
            @click=${() => actions.keep('layer', k)}
          >
            ${picture ? html`<lab-raster class="smooth" .picture=${picture}></lab-raster>` : html`<i class="waiting"></i>`}
            <small>${name(k)}</small>
          </button>
        </li>`;
      })}
    </ol>
    <div class="two-up">
      ${layer > 0 ? matrix(state, actions, tensors, about.tokens, layer) : independent()}
      ${similarity(tensors.similarity, about.tokens, layer)}
    </div>`;
}

const independent = () =>
  html`<p class="empty">The embeddings do not depend on each other yet: each stands for its token and its position alone.</p>`;

/** @param {string} token */
export const readable = (token) =>
  ({ '<|startoftext|>': 'start', '<|endoftext|>': 'end' })[token] ?? token.replace('</w>', '');

/** @param {State} state @param {Actions} actions @param {Tensors} tensors
 * @param {string[]} tokens @param {number} layer */
function matrix(state, actions, tensors, tokens, layer) {
  const own = part(tensors.attention, layer - 1); // [heads,T,T]
  const [heads, size] = own.shape;
  const head = state.local.textHead ?? null;
  const values = new Float32Array(size * size);
  for (let h = 0; h < heads; h++)
    if (head === null || h === head)
      for (let i = 0; i < values.length; i++) values[i] += own.data[h * size * size + i] / (head === null ? heads : 1);
  const names = tokens.map(readable);
  return html`<section class="column">
    <h2>Which token attends to which, in layer ${layer}</h2>
    <div class=${size > 14 ? 'matrix' : 'matrix named'}>
      <ol class="rows" aria-hidden="true">${names.map((each) => html`<li>${each}</li>`)}</ol>
      <ol class="columns" aria-hidden="true">${names.map((each) => html`<li>${each}</li>`)}</ol>
      ${figure({
        picture: mapped(values, size, size, 'heat', 0, 1),
        sentence: `Attention between ${size} tokens in layer ${layer}; rows attend to columns, none to a later one`,
        read: (x, y) => `${names[y]} → ${names[x]}  ${(100 * values[y * size + x]).toFixed(0)} %`,
        caption: html`<span>A row is a token that attends, a column one that it attends to.</span>`,
      })}
    </div>
    ${segments(
      'Head',
      [[null, 'mean'], ...Array.from({ length: heads }, (_, k) => /** @type {[any, string]} */ ([k, String(k + 1)]))],
      head,
      (value) => actions.keep('textHead', value),
    )}
  </section>`;
}

/** @param {Tensor} tensor [L+1,T] @param {string[]} tokens @param {number} layer */
function similarity(tensor, tokens, layer) {
  const [, size] = tensor.shape;
  return html`<section class="column">
    <h2>How near each token is to its last state</h2>
    <ol class="ranking near-list">
      ${tokens.map((token, k) => {
        const value = tensor.data[layer * size + k];
        return html`<li><span>${readable(token)}</span>${bar(value)}<output>${value.toFixed(2)}</output></li>`;
      })}
    </ol>
    <p class="remark">Cosine of the two.</p>
  </section>`;
}
