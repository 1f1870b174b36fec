// Self-attention: where a position of the picture looks, and which positions look alike.

import { html } from '../vendor/lit-html.js';
import { blockLabel, most, resized } from '../attention.js';
import { inspectionSnippets } from '../copy.js';
import { overlay } from '../draw/overlay.js';
import { components } from '../draw/components.js';
import { experiment, progress } from '../parts/experiment.js';
import { figure, pointed } from '../parts/figure.js';
import { gridOf } from '../runs.js';
import { part, pictureOf } from '../tensors.js';
import { tiles } from './attention.js';

const KIND = 'self-attention';
const SELF = '.self_attn';
const COSTS = 'One more run with the same seed, in which self-attention is kept. The picture stays the same.';

/** @type {View} */
export const selfAttention = {
  id: 'self-attention',
  title: 'Self-attention',
  group: 'Inside',
  about: 'To which other positions each position of the picture attends. Point at one.',
  needs: ['model', 'run'],
  render(state, actions) {
    const { entry, start, soon } = experiment(state, KIND);
    const line = progress(entry, { title: 'Look at the self-attention of this run', costs: COSTS, start, soon });
    const blocks = entry ? blocksOf(entry.tensors) : [];
    if (!entry || !blocks.length) return line;
    const block = blocks.includes(state.selection.block ?? '') ? /** @type {string} */ (state.selection.block) : finest(entry.tensors, blocks);
    return html`${line}${shown(state, actions, entry, blocks, block)}`;
  },
  copy: (state) =>
    inspectionSnippets(state, KIND, {}, `${state.selection.block ?? 'unet.mid.attn.0.block.0'}${SELF}`),
};

/** @param {Tensors} tensors */
const blocksOf = (tensors) =>
  Object.keys(tensors)
    .filter((name) => name.endsWith(SELF))
    .map((name) => name.slice(0, -SELF.length))
    .sort();

/** The last of the finest blocks. @param {Tensors} tensors @param {string[]} blocks */
function finest(tensors, blocks) {
  const size = (/** @type {string} */ block) => tensors[block + SELF].shape[1];
  const largest = Math.max(...blocks.map(size));
  return /** @type {string} */ (blocks.findLast((block) => size(block) === largest));
}

/** Which kept call a step shows: the nearest; the last for all. @param {any} about @param {number|null} step
 * @param {number} there */
function callOf(about, step, there) {
  if (step === null) return there - 1;
  /** @type {{calls_per_step: number[], kept_calls: number[]}} */
  const { calls_per_step: counts, kept_calls: all } = about;
  const call = counts.slice(0, step).reduce((sum, n) => sum + n, 0);
  const kept = all.slice(0, there);
  const distance = (/** @type {number} */ k) => Math.abs(kept[k] - call);
  return kept.reduce((best, _, k) => (distance(k) < distance(best) ? k : best), 0);
}

/** Where a position of a block looks. @param {Tensors} tensors @param {string} block
 * @param {number} call @param {[number, number]} position @param {[number, number]} grid @returns {Field} */
function lookOf(tensors, block, call, [x, y], [width, height]) {
  const tensor = tensors[block + SELF];
  const [, h, w] = tensor.shape;
  const row = Math.min(h - 1, Math.floor(((y + 0.5) * h) / height));
  const column = Math.min(w - 1, Math.floor(((x + 0.5) * w) / width));
  const scale = part(tensors[`${block}${SELF}.scale`], call, row, column).data[0] / 255;
  return { data: Float32Array.from(part(tensor, call, row, column).data, (value) => value * scale), width: w, height: h };
}

/** @param {State} state @param {Actions} actions @param {Inspected} entry
 * @param {string[]} blocks @param {string} block */
function shown(state, actions, entry, blocks, block) {
  const { tensors, about } = entry;
  const grid = gridOf(state);
  const position = state.local.hoverPosition ?? state.selection.position ?? [grid[0] >> 1, grid[1] >> 1];
  const call = callOf(about, state.selection.step, tensors[block + SELF].shape[0]);
  const look = lookOf(tensors, block, call, position, grid);
  const counts = about.calls_per_step;
  const step = stepOf(counts, about.kept_calls[call]);
  const where = `${blockLabel(block)}, step ${step + 1}`;
  const alike = components(tensors[block + SELF], tensors[`${block}${SELF}.scale`], call);
  const select = {
    cells: grid,
    ...pointed(state, actions),
    onHover: (/** @type {[number, number]|null} */ at) => actions.keep('hoverPosition', at),
  };
  return html`<div class="two-up">
    ${figure({
      ...select,
      picture: overlay(resized(look, grid[0], grid[1]), pictureOf(tensors, 0), most(look)),
      sentence: `Where position ${position[0] + 1}, ${position[1] + 1} looks in ${where}: at most ${(100 * most(look)).toFixed(1)} % at one position`,
      caption: html`<span><b>Attends to</b> · from position ${position[0] + 1}, ${position[1] + 1} · ${where}</span>`,
      smooth: true,
    })}
    ${figure({
      ...select,
      picture: alike,
      sentence: `Positions that look alike have one colour, in ${where}: the three main directions of self-attention`,
      caption: html`<span><b>Alike</b> · what attends alike has one colour</span>`,
      smooth: true,
    })}
  </div>
  <h2 class="over">From this position in each block</h2>
  ${tiles(
    blocks,
    block,
    (each) => lookOf(tensors, each, Math.min(call, tensors[each + SELF].shape[0] - 1), position, grid),
    'at one position',
    (each) => actions.select({ block: each }),
  )}`;
}

/** @param {number[]} counts @param {number} call */
function stepOf(counts, call) {
  let sum = 0;
  return Math.max(0, counts.findIndex((count) => (sum += count) > call));
}
