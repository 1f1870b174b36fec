// Ablation: switch parts of the network off and see what the picture lacks; and a map of what matters when.

import { html, nothing, svg } from '../vendor/lit-html.js';
import { blockLabel } from '../attention.js';
import { inspectionSnippets } from '../copy.js';
import { largest, mapped } from '../draw/colours.js';
import { overlay } from '../draw/overlay.js';
import { brushed } from '../painting.js';
import { dropdown, experiment, fold, progress, segments, slider, submits } from '../parts/experiment.js';
import { named } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';
import { blocksOfModules, PARTS, unet } from '../parts/unet.js';
import { current, gridOf, promptOf, wordsOf } from '../runs.js';
import { pictureOf } from '../tensors.js';

/** @typedef {{names: string[], strength: number, word: string, heads: number[], first: number, last: number|null,
 *   area: string|null}} Settings */

const KIND = 'ablation';
const MAP = 'ablation-map';
const CELLS = 16; // along the longer side of what is painted
const DRAFT = 6; // steps of a run of the map: enough to see which band matters

/** @type {View} */
export const ablation = {
  id: 'ablation',
  title: 'Ablation',
  group: 'Change',
  about: 'What does a part do? Switch it off, or turn it down, and look at what the picture lacks. A block has self-attention, attention to the text, and a feed-forward.',
  needs: ['model', 'run'],
  render(state, actions) {
    const modules = actions.json('modules');
    if (!modules) return html`<p class="begin" role="status">reading …</p>`;
    const blocks = blocksOfModules(modules);
    const settings = settingsOf(state, blocks);
    const { start } = experiment(state, KIND, optionsOf(settings), { wait: true });
    const made = state.local.ablationMade;
    const entry = made ? experiment(state, KIND, made, { wait: true }).entry : undefined;
    const begin = () => {
      actions.keep('ablationMade', optionsOf(settings));
      start();
    };
    const heads = isOneAttention(settings.names) ? headsIn(modules, settings.names[0]) : 0;
    return html`${switches(state, actions, blocks, settings, heads, begin)}
    ${entry ? progress(entry, { title: 'Run without', costs: '', start: begin }) : nothing}
    ${entry?.tensors.done ? outcome(entry.tensors) : nothing} ${map(state, actions)}`;
  },
  copy: (state) =>
    inspectionSnippets(state, KIND, state.local.ablationMade ?? optionsOf(settingsOf(state, [])), 'latents'),
};

/** @param {State} state @param {string[]} blocks @returns {Settings} */
function settingsOf(state, blocks) {
  const middle = blocks.find((block) => block.startsWith('unet.mid')) ?? 'unet.mid.attn.0.block.0';
  return { names: [`${middle}.cross_attn`], strength: 0, word: '', heads: [], first: 0, last: null, area: null, ...state.local.ablation };
}

/** @param {Settings} settings @returns {Record<string, any>} */
function optionsOf({ names, strength, word, heads, first, last, area }) {
  const parts = word ? names.filter((name) => name.endsWith('cross_attn')) : names;
  /** @type {Record<string, any>} */
  const options = { names: word && !parts.length ? ['unet.*.cross_attn'] : parts, strength };
  if (word) options.word = word;
  else if (heads.length && isOneAttention(names)) options.heads = heads;
  if (first) options.first = first;
  if (last !== null) options.last = last;
  if (area) options.area = area;
  return options;
}

/** Heads can be told apart in one attention. @param {string[]} names */
const isOneAttention = (names) => names.length === 1 && names[0].endsWith('_attn');

/** @param {Module[]} modules @param {string} name of an attention */
const headsIn = (modules, name) => modules.find((each) => each.name === name)?.outputs[`${name}.weights`]?.[0] ?? 0;

/** @param {State} state @param {Actions} actions @param {string[]} blocks @param {Settings} settings
 * @param {number} heads of the one attention that is off @param {() => void} begin */
function switches(state, actions, blocks, settings, heads, begin) {
  const set = (/** @type {Partial<Settings>} */ change) => actions.keep('ablation', { ...actions.state().local.ablation, ...change });
  const isOff = (/** @type {string} */ name) => settings.names.includes(name);
  const toggle = (/** @type {string} */ name) =>
    set({ names: isOff(name) ? settings.names.filter((each) => each !== name) : [...settings.names, name] });
  const all = (/** @type {string} */ part) => blocks.map((block) => `${block}.${part}`);
  const words = wordsOf(promptOf(state));
  const off = settings.names.length;
  return html`${unet(blocks, isOff, toggle)}
    ${fold(state, actions, 'area', settings.area ? 'Only where it is painted' : 'Everywhere, or only where you paint', painted(state, actions, set))}
    <form
      class="line-up controls"
      @submit=${submits(begin)}
    >
      <div class="setting">
        <span class="name">Switch off in every block</span>
        <div class="line-up">
          ${PARTS.map(
            ([part, title]) => html`<button type="button" @click=${() => set({ names: all(part) })}>${title}</button>`,
          )}
          <button type="button" class="quiet" @click=${() => set({ names: [] })}>none</button>
        </div>
      </div>
      ${slider('What remains of it', { min: 0, max: 2, step: 0.1, value: settings.strength }, (strength) => set({ strength }), `${Math.round(settings.strength * 100)} %`)}
      ${dropdown(
        'Of the attention to',
        [['', 'everything'], ...words.map((word) => /** @type {[string, string]} */ ([word, `“${word}” alone`]))],
        settings.word,
        (word) => set({ word }),
      )}
      ${heads > 1 && !settings.word ? headChoice(heads, settings.heads, (chosen) => set({ heads: chosen })) : nothing}
      ${
        settings.first || settings.last !== null
          ? html`<div class="setting"><span class="name">Network calls</span>
              <button type="button" @click=${() => set({ first: 0, last: null })}>
                ${settings.first + 1} to ${(settings.last ?? 0) + 1} ✕
              </button></div>`
          : nothing
      }
      <button class="primary" type="submit" ?disabled=${!off && !settings.word}>Run ${settings.strength === 0 ? 'without' : 'with this'}</button>
    </form>`;
}

/** Where it is changed: a mask over the picture, cell by cell. @param {State} state @param {Actions} actions
 * @param {(change: Partial<Settings>) => void} set */
function painted(state, actions, set) {
  const run = /** @type {Run} */ (current(state));
  const grid = gridOf(state);
  const [width, height] = grid.map((side) => Math.max(1, Math.round((side * CELLS) / Math.max(CELLS, ...grid))));
  const cellsOf = (/** @type {State} */ now) => {
    const cells = (now.local.ablation?.area ?? '').replaceAll(',', '');
    return cells.length === width * height ? cells : '0'.repeat(width * height);
  };
  const paint = (/** @type {CustomEvent} */ event) => {
    const cells = [...cellsOf(actions.state())];
    for (const k of brushed(event.detail[0], event.detail[1], 1, width, height)) cells[k] = '1';
    set({ area: Array.from({ length: height }, (_, y) => cells.slice(y * width, (y + 1) * width).join('')).join() });
  };
  const field = { data: Float32Array.from(cellsOf(state), Number), width, height };
  return html`<figure class="figure">
    <lab-raster
      .selects=${true}
      .paints=${true}
      .cells=${[width, height]}
      .picture=${overlay(field, stepPreview(actions, run, run.total - 1) ?? null, 1)}
      .label=${'Where it is changed. Drag to paint; arrow keys move, space paints.'}
      @paint=${paint}
    ></lab-raster>
    <figcaption><button type="button" ?disabled=${!state.local.ablation?.area} @click=${() => set({ area: null })}>Clear</button></figcaption>
  </figure>`;
}

/** @param {number} count @param {number[]} chosen none is all @param {(heads: number[]) => void} choose */
const headChoice = (count, chosen, choose) =>
  html`<div class="setting">
    <span class="name">${chosen.length ? 'These heads alone' : 'All heads, or some'}</span>
    <div class="segments" role="group" aria-label="Heads">
      ${Array.from({ length: count }, (_, head) => {
        const on = chosen.includes(head);
        const next = on ? chosen.filter((each) => each !== head) : [...chosen, head].toSorted((a, b) => a - b);
        return html`<button type="button" aria-pressed=${on} @click=${() => choose(next)}>${head + 1}</button>`;
      })}
    </div>
  </div>`;

/** @param {Tensors} tensors */
function outcome(tensors) {
  const [whole, without] = [0, 1].map((k) => pictureOf(tensors, k));
  const effect = tensors.effect?.data[0];
  return html`<div class="cards">
    ${named(whole, 'as it is', 'The picture as it is')} ${named(without, 'with the change', 'The picture with the change')}
    ${named(
      whole && without ? difference(whole, without) : null,
      'difference',
      'Where the two differ',
      effect === undefined ? '' : ` · ${effect.toFixed(2)} deviations of the latents`,
    )}
  </div>`;
}

/** @param {Picture} one @param {Picture} other */
function difference(one, other) {
  const size = new Float32Array(one.width * one.height);
  for (let i = 0; i < size.length; i++)
    for (let c = 0; c < 3; c++) size[i] += Math.abs(one.rgba[i * 4 + c] - other.rgba[i * 4 + c]) / 3;
  return mapped(size, one.width, one.height, 'heat', 0, Math.max(24, largest(size)));
}

/** @param {State} state @param {Actions} actions */
function map(state, actions) {
  const part = state.local.mapPart ?? 'cross_attn';
  const options = { part, bands: 4 };
  const { entry, start } = mapped_(state, options);
  const count = entry ? entry.calls : null;
  return html`<section>
    <h2 class="over">What matters when</h2>
    <div class="line-up">
      ${segments('Part', PARTS.map(([id, title]) => /** @type {[string, string]} */ ([id, title])), part, (value) => actions.keep('mapPart', value))}
    </div>
    ${progress(entry, {
      title: 'Fill in the map',
      costs: `Each block is switched off in each quarter of a run of ${DRAFT} steps. You need not wait for it.`,
      start,
    })}
    ${entry?.tensors.effect && entry.about ? table(state, actions, entry.tensors.effect, entry.about, part) : nothing}
    ${count ? html`<p class="remark">Change of the final latents, in their standard deviations. Press one to try it above.</p>` : nothing}
  </section>`;
}

/** The map is of a shorter run. @param {State} state @param {object} options */
function mapped_(state, options) {
  const run = state.runs[state.current ?? ''];
  const draft = { ...run, request: { ...run.request, num_inference_steps: DRAFT, sigmas: null } };
  const short = { ...state, runs: { ...state.runs, [run.id]: draft } };
  return experiment(short, MAP, options, { wait: true });
}

/** @param {State} state @param {Actions} actions @param {Tensor} effect @param {any} about
 * @param {string} part */
function table(state, actions, effect, about, part) {
  const [rows, columns] = effect.shape;
  const high = [...effect.data].reduce((most, value) => (value > most ? value : most), 1e-6);
  const total = state.runs[state.current ?? '']?.total || 12;
  // The steps that a branch keeps are those of the run; the others of the draft stand for more of them.
  const [kept, drafted] = [about.bands[0][0], about.bands.at(-1)[1] + 1];
  const edge = (/** @type {number} */ step) => Math.round(kept + ((step - kept) * (total - kept)) / (drafted - kept));
  const calls = (/** @type {number} */ band) => {
    const [first, last] = about.bands[band];
    return { first: edge(first), last: Math.max(edge(last + 1) - 1, 0) };
  };
  const cell = (/** @type {number} */ row, /** @type {number} */ band) => {
    const value = effect.data[row * columns + band];
    const known = !Number.isNaN(value);
    const { first, last } = calls(band);
    const choose = () => actions.keep('ablation', { names: [about.blocks[row]], strength: 0, word: '', heads: [], first, last });
    return html`<td>
      <button
        class="cell"
        ?disabled=${!known}
        aria-label="${blockLabel(about.blocks[row].slice(0, -part.length - 1))}, steps ${first + 1} to ${last + 1}: ${known ? value.toFixed(2) : 'not known yet'}"
        @click=${choose}
      >
        <svg viewBox="0 0 10 10" preserveAspectRatio="none" aria-hidden="true">
          ${svg`<rect width="10" height="10" fill-opacity=${known ? (value / high).toFixed(3) : 0}></rect>`}
        </svg>
        <span>${known ? value.toFixed(2) : ''}</span>
      </button>
    </td>`;
  };
  return html`<table class="causes">
    <caption class="sr">Effect of each block in each band of steps</caption>
    <thead>
      <tr>
        <th scope="col"><span class="sr">block</span></th>
        ${Array.from({ length: columns }, (_, band) => {
          const { first, last } = calls(band);
          return html`<th scope="col">steps ${first + 1}–${last + 1}</th>`;
        })}
      </tr>
    </thead>
    <tbody>
      ${Array.from(
        { length: rows },
        (_, row) => html`<tr>
          <th scope="row">${blockLabel(about.blocks[row].slice(0, -part.length - 1))}</th>
          ${Array.from({ length: columns }, (_, band) => cell(row, band))}
        </tr>`,
      )}
    </tbody>
  </table>`;
}
