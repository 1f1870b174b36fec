// Attention both ways: from a word to the positions that attend to it, and from a position to the words, by step, block, head.

import { html, nothing } from '../vendor/lit-html.js';
import { blockLabel, blocksOf, callsOf, callsThere, headsOf, meanOf, most, valueAt, wordMap } from '../attention.js';
import { inspectionSnippets } from '../copy.js';
import { heat, overlay } from '../draw/overlay.js';
import { bar, experiment, progress, segments } from '../parts/experiment.js';
import { figure } from '../parts/figure.js';
import { pictureOf } from '../tensors.js';
import { gridOf, shownStep } from '../runs.js';

const KIND = 'attention';
const COSTS = 'One more run with the same seed, in which each layer’s attention is kept. The picture stays the same.';

/** @type {View} */
export const attention = {
  id: 'attention',
  title: 'Attention',
  group: 'Inside',
  about: 'Where each word went, and which words each position attends to. Point at a word or a position.',
  needs: ['model', 'run'],
  render(state, actions) {
    const { entry, start, soon } = experiment(state, KIND);
    const line = progress(entry, { title: 'Look at the attention of this run', costs: COSTS, start, soon });
    if (!entry || !callsThere(entry.tensors)) return line;
    return html`${line}${shown(state, actions, entry)}`;
  },
  copy: (state) =>
    inspectionSnippets(state, KIND, {}, `unet.${state.selection.block?.slice(5) ?? 'mid.attn.0.block.0'}.cross_attn`),
};

/** @param {State} state @param {Actions} actions @param {Inspected} entry */
function shown(state, actions, entry) {
  const { tensors, about } = entry;
  const { selection, local } = state;
  const blocks = blocksOf(tensors);
  const block = blocks.includes(selection.block ?? '') ? selection.block : null;
  const heads = block ? headsOf(tensors, block) : 0;
  const head = block && selection.head !== null && selection.head < heads ? selection.head : null;
  const calls = callsOf(about, selection.step, callsThere(tensors));
  const part = { ...calls, block, head };
  const words = [...about.words.map((/** @type {any} */ each) => each.word), 'start of text', 'end and padding'];
  const grid = gridOf(state);
  const position = local.hoverPosition ?? selection.position;
  const word = Math.min(local.hoverWord ?? selection.word ?? firstNoun(about.words), about.words.length - 1);
  const map = wordMap(tensors, word, part);
  const when = selection.step === null ? 'mean of all steps' : `step ${selection.step + 1}`;
  const where = block ? `${blockLabel(block)}${head === null ? '' : `, head ${head + 1}`}` : 'mean of all blocks';
  const values = words.map((_, k) => {
    const field = wordMap(tensors, k, part);
    return position ? valueAt(field, position, grid) : meanOf(field);
  });
  const percent = (/** @type {number} */ value) => `${(100 * value).toFixed(1)}\u00a0%`;
  return html`<div class="beside">
    <div>
      ${figure({
        picture: overlay(map, pictureOf(tensors, 0), most(map)),
        sentence: `Attention to “${words[word]}”, ${where}, ${when}: at most ${percent(most(map))} of a position’s attention`,
        caption: html`<span><b>${words[word]}</b> · ${where} · ${when} · brightest ${percent(most(map))}</span>`,
        cells: grid,
        position: selection.position,
        smooth: true,
        onPosition: (at) => actions.select({ position: at }),
        onHover: (at) => actions.keep('hoverPosition', at),
      })}
    </div>
    <div class="column">
      <h2>${position ? `What position ${position[0] + 1}, ${position[1] + 1} attends to` : 'What the picture attends to'}</h2>
      ${ranking(words, values, word, actions, percent)}
      <p class="remark">Percent of the attention: all words, the start and the padding together are 100. The longest bar is the strongest word.</p>
      <div class="line-up">
        ${segments('Steps', stepChoice(state), selection.step === null ? null : selection.step, (step) =>
          actions.select({ step }),
        )}
        ${
          block
            ? segments(
                'Head',
                [[null, 'mean'], ...Array.from({ length: heads > 1 ? heads : 0 }, (_, k) => /** @type {[any, string]} */ ([k, String(k + 1)]))],
                head,
                (value) => actions.select({ head: value }),
              )
            : nothing
        }
      </div>
      ${about.averages_heads ? html`<p class="remark">Heads are averaged, since all of them would not fit.</p>` : nothing}
    </div>
  </div>
  <h2 class="over">In each block</h2>
  ${blockStrip(tensors, blocks, word, words[word], { ...calls, head: null }, block, actions)}`;
}

/** All steps, or the one of the timeline. @param {State} state @returns {[any, string][]} */
export function stepChoice(state) {
  const step = state.selection.step ?? shownStep(state);
  return [[null, 'all'], ...(step === null ? [] : [/** @type {[any, string]} */ ([step, `step ${step + 1}`])])];
}

/** The first word that is no article. @param {{word: string}[]} words */
export const firstNoun = (words) =>
  Math.max(0, words.findIndex(({ word }) => word.length > 2 && !['the', 'and', 'with', 'for'].includes(word)));

/** @param {string[]} words @param {number[]} values @param {number} word @param {Actions} actions
 * @param {(value: number) => string} percent */
function ranking(words, values, word, actions, percent) {
  const own = words.length - 2;
  const highest = Math.max(...values.slice(0, own), 1e-6);
  const order = [...Array(own).keys()].sort((a, b) => values[b] - values[a]);
  const row = (/** @type {number} */ k) => html`<li>
    <button
      class="word"
      aria-pressed=${k === word}
      @click=${() => actions.select({ word: k })}
      @pointerenter=${() => actions.keep('hoverWord', k)}
      @pointerleave=${() => actions.keep('hoverWord', undefined)}
    >
      <span>${words[k]}</span>${bar(values[k] / highest)}<output>${percent(values[k])}</output>
    </button>
  </li>`;
  return html`<ol class="ranking">
    ${order.map(row)}
    ${[own, own + 1].map(
      (k) => html`<li class="rest"><span>${words[k]}</span><i></i><output>${percent(values[k])}</output></li>`,
    )}
  </ol>`;
}

/** @param {Tensors} tensors @param {string[]} blocks @param {number} word @param {string} name
 * @param {{from: number, to: number, head: null}} calls @param {string|null} chosen @param {Actions} actions
 * @param {string} [prefix] */
export function blockStrip(tensors, blocks, word, name, calls, chosen, actions, prefix = '') {
  const choose = (/** @type {string} */ block) => actions.select({ block: block === chosen ? null : block, head: null });
  return tiles(blocks, chosen, (block) => wordMap(tensors, word, { ...calls, block }, prefix), `to ${name}`, choose);
}

/** Blocks as small maps to choose from. @param {string[]} blocks @param {string|null} chosen @param {(block: string) => Field} map
 * @param {string} what @param {(block: string) => void} choose */
export const tiles = (blocks, chosen, map, what, choose) => html`<ul class="strip-of-blocks">
  ${blocks.map((block) => {
    const field = map(block);
    const name = blockLabel(block);
    return html`<li>
      <button
        class="tile"
        aria-pressed=${block === chosen}
        aria-label="${name}: at most ${(100 * most(field)).toFixed(1)} % ${what}"
        @click=${() => choose(block)}
      >
        <lab-raster .picture=${heat(field, most(field))}></lab-raster>
        <small>${name}</small>
      </button>
    </li>`;
  })}
</ul>`;
