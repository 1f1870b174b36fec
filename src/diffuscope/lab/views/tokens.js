// Tokens: how the prompt becomes numbers, as one types. Merges, ids, the 77 token positions, and the words that lie near.

import { html, nothing } from '../vendor/lit-html.js';
import { textSnippets } from '../copy.js';
import { bar } from '../parts/experiment.js';
import { empty } from '../parts/figure.js';
import { firstNoun } from './attention.js';
import { readable } from './layers.js';

/** @typedef {{word: string, ids: number[], tokens: string[], positions: number[], bytes: string[], unknown: boolean,
 *   merges: {rank: number, pair: string[], pieces: string[]}[]}} Word */

const NEAREST = 6;

/** @type {any} what was read last: shown until the next answer is there */
let last = null;

/** @type {View} */
export const tokens = {
  id: 'tokens',
  title: 'Tokens',
  group: 'Text',
  about: 'How the prompt becomes numbers. Type above: each word is joined from its letters, piece by piece.',
  needs: ['model'],
  render(state, actions) {
    const prompt = textOf(state);
    if (!prompt.trim()) return empty('There is no prompt yet. Type one above.');
    const syntax = state.options.prompt_syntax ?? 'plain';
    const asked = { prompt, prompt_syntax: syntax, nearest: NEAREST };
    const read = actions.answer('text', asked);
    if (read === null) return empty(`It cannot be read: ${actions.problem('text', asked)?.message}.`);
    last = read ?? last;
    if (!last) return html`<p class="begin" role="status">reading …</p>`;
    return shown(state, actions, last);
  },
  copy: (state) => textSnippets(state, textOf(state)),
};

/** @param {State} state @returns {string} */
const textOf = (state) => [state.options.prompt].flat()[0] ?? '';

/** @param {State} state @param {Actions} actions @param {any} read */
function shown(state, actions, read) {
  /** @type {Word[]} */
  const words = read.words;
  const chosen = Math.min(state.selection.word ?? firstNoun(words), Math.max(0, words.length - 1));
  const word = words[chosen];
  return html`<ol class="pieces">
      ${words.map(
        (each, k) => html`<li>
          <button
            class="piece"
            aria-pressed=${k === chosen}
            @click=${() => actions.select({ word: k })}
            @pointerenter=${() => actions.select({ word: k })}
          >
            ${each.tokens.map((token) => html`<b>${readable(token)}</b>`)}
            <small>${each.positions.length ? each.ids.join(' ') : 'cut off'}</small>
          </button>
        </li>`,
      )}
    </ol>
    ${read.truncated ? html`<p class="warned" role="status">${read.truncated}</p>` : nothing}
    <div class="three">
      ${word ? merges(word) : nothing} ${word ? nearest(word, read.nearest ?? {}) : nothing}
      ${window_(read, chosen, actions)}
    </div>`;
}

/** @param {Word} word */
function merges(word) {
  const rows = [word.bytes, ...word.merges.map((merge) => merge.pieces)];
  return html`<section class="column">
    <h2>How “${word.word}” is joined</h2>
    <ol class="merges">
      ${rows.map((pieces, k) => {
        const fresh = k ? word.merges[k - 1].pair.join('') : '';
        return html`<li>
          <span>${pieces.map((piece) => html`<b class=${piece === fresh ? 'new' : ''}>${piece.replace('</w>', '')}</b>`)}</span>
          <small>${k ? `rule ${word.merges[k - 1].rank.toLocaleString('en')}` : 'letters'}</small>
        </li>`;
      })}
    </ol>
    <p class="remark">
      ${word.ids.length === 1 ? 'One token' : `${word.ids.length} tokens`}: ${word.ids.join(', ')}.
      ${word.unknown ? 'This model never saw it in training.' : ''}
    </p>
  </section>`;
}

/** @param {Word} word @param {Record<string, {id: number, token: string, cosine: number}[]>} near */
function nearest(word, near) {
  return html`<section class="column">
    <h2>What lies near it</h2>
    ${word.ids.map((id, k) => {
      const found = near[id];
      if (!found?.length)
        return html`<p class="remark">“${readable(word.tokens[k])}” has no embedding that was trained.</p>`;
      return html`<ol class="ranking near-list">
        ${found.map(
          (each) => html`<li>
            <span>${readable(each.token)}</span>${bar(each.cosine)}<output>${each.cosine.toFixed(2)}</output>
          </li>`,
        )}
      </ol>`;
    })}
    <p class="remark">Cosine of the embeddings, before the text encoder.</p>
  </section>`;
}

/** @param {any} read @param {number} chosen @param {Actions} actions */
function window_(read, chosen, actions) {
  return html`<section class="column whole">
    <h2>${read.used} of ${read.limit} token positions are taken</h2>
    ${read.windows.map(
      (/** @type {any} */ each) => html`<ol class="window">
        ${each.ids.map((/** @type {number} */ id, /** @type {number} */ k) => {
          const word = each.words[k];
          const own = word !== null && word !== undefined;
          const kind = own ? 'own' : k === 0 ? 'edge' : each.words[k - 1] !== null || k === 1 ? 'edge' : 'pad';
          return html`<li class="${kind} ${own && word === chosen ? 'on' : ''}" title="${k}: ${readable(each.tokens[k])}, id ${id}">
            ${own ? html`<button tabindex="-1" @click=${() => actions.select({ word })}>${readable(each.tokens[k])}</button>` : kind === 'edge' ? (k === 0 ? 'start' : 'end') : ''}
          </li>`;
        })}
      </ol>`,
    )}
    <p class="remark">Start, the tokens, end; the rest is padding, which the U-Net reads too.</p>
  </section>`;
}

