// A grid of runs: one option along each side. Each cell is a run of its own, which opens with a click.

import { html, nothing } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import { gridSnippets } from '../copy.js';
import { current, ended, inputsOf, stepsOf, withChange } from '../runs.js';
import { given, submits } from '../parts/experiment.js';
import { kindOf, words } from '../parts/field.js';
import { optionsOf } from '../parts/form.js';
import { empty } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';
import '../draw/raster.js';

const USUAL = {
  seed: '1, 2, 3, 4',
  guidance_scale: '1, 2.5, 5, 9',
  num_inference_steps: '2, 4, 8, 16',
  strength: '0.3, 0.5, 0.7, 0.9',
  sampler: 'euler, dpmpp_2m, euler_ancestral, heun',
  sigmas: 'model, karras, exponential',
  prompt: 'a red fox, a blue fox, a red car',
};
const NAMES = Object.keys(USUAL);
const MOST = 64; // cells

/** @type {View} */
export const grid = {
  id: 'grid',
  title: 'Grid',
  group: 'Make',
  about: 'One option across, another down; every cell is a run that opens with a click and can be stopped by itself.',
  needs: ['model'],
  copy: (state) => gridSnippets(state, state.local.grid ?? planOf(state)),
  render(state, actions) {
    const axes = axesOf(state);
    const set = (/** @type {object} */ change) => actions.keep('axes', { ...axes, ...change });
    const plan = planOf(state);
    const wrong = [...unread(state, axes.x, axes.xs), ...unread(state, axes.y, axes.ys)];
    const cells = plan.xValues.length * plan.yValues.length;
    const busy = state.local.grid?.filling || cellsOf(state).some((id) => id && state.runs[id] && !ended(state.runs[id].state));
    return html`<form
        class="axes"
        @submit=${submits(() => fill(actions, plan))}
      >
        ${axis('across', axes.x, axes.xs, axes.y, (x, text) => set({ x, xs: text }))}
        ${axis('down', axes.y, axes.ys, axes.x, (y, text) => set({ y, ys: text }))}
        <button type="submit" class="primary" ?disabled=${!cells || cells > MOST}>Fill ${cells} cells</button>
        ${busy ? html`<button type="button" @click=${() => stopAll(actions)}>Stop all</button>` : nothing}
        ${cells > MOST ? html`<p class="muted">At most ${MOST} cells.</p>` : nothing}
        ${wrong.length ? html`<p class="warned" role="status">Left out, since these are no numbers: ${wrong.join(', ')}.</p>` : nothing}
      </form>
      ${state.local.grid ? filled(state, actions) : empty('The grid is empty. Choose two options and their values, then fill it.')}`;
  },
};

/** @param {State} state @returns {{x: string, y: string, xs: string, ys: string}} */
const axesOf = (state) =>
  state.local.axes ?? { x: 'seed', y: 'guidance_scale', xs: USUAL.seed, ys: USUAL.guidance_scale };

/** What the grid would be: the cells share the form's options, and one seed. @param {State} state */
function planOf(state) {
  const { x, y, xs, ys } = axesOf(state);
  const seed = current(state)?.seeds[0] ?? 0;
  const [xValues, yValues] = [values(state, x, xs), values(state, y, ys)];
  const shared = { prompt: 'a red fox', seed, ...state.options, num_images_per_prompt: 1 };
  return {
    ...{ x, y, xValues, yValues },
    base: withChange(state, shared, { [x]: xValues, [y]: yValues }),
    inputs: inputsOf(state.image, state.mask),
  };
}

/** @param {string} side @param {string} name @param {string} text @param {string} other
 * @param {(name: string, text: string) => void} set */
function axis(side, name, text, other, set) {
  return html`<div class="axis">
    <label for="axis-${side}">${side}</label>
    <select id="axis-${side}" .value=${name} @change=${given((name) => set(name, /** @type {any} */ (USUAL)[name]))}>
      ${NAMES.filter((each) => each !== other).map((each) => html`<option value=${each} ?selected=${each === name}>${words(each)}</option>`)}
    </select>
    <input
      type="text"
      aria-label="${words(name)}: values ${side}, between commas"
      .value=${text}
      @input=${given((text) => set(name, text))}
    />
  </div>`;
}

/** @param {State} state @param {string} name @param {string} text */
function values(state, name, text) {
  const parts = partsOf(text);
  return isNumber(state, name) ? parts.map(Number).filter((value) => !Number.isNaN(value)) : parts;
}

/** What of a text is no number where it should be. @param {State} state @param {string} name @param {string} text */
const unread = (state, name, text) => (isNumber(state, name) ? partsOf(text).filter((part) => Number.isNaN(Number(part))) : []);

/** @param {string} text */
const partsOf = (text) => text.split(',').map((part) => part.trim()).filter(Boolean);

/** @param {State} state @param {string} name */
function isNumber(state, name) {
  const { kind, schema } = kindOf(optionsOf(state)[name] ?? {});
  return kind === 'number' || schema.type === 'integer' || schema.type === 'number';
}

/** @param {State} state @returns {(string|null)[]} */
const cellsOf = (state) => (state.local.grid ? state.local.grid.cells.flat() : []);

/** @param {Actions} actions @param {ReturnType<typeof planOf>} plan */
async function fill(actions, plan) {
  stopAll(actions);
  /** @type {(string|null)[][]} */
  const cells = plan.yValues.map(() => plan.xValues.map(() => null));
  const made = { ...plan, cells };
  actions.keep('grid', { ...made, filling: true });
  for (const [row, y] of plan.yValues.entries())
    for (const [column, x] of plan.xValues.entries()) {
      const request = { ...plan.base, [plan.x]: x, [plan.y]: y };
      const id = await actions.submit({ request, ...plan.inputs, interactive: false });
      if (actions.state().local.grid.cells !== cells) return void (id && actions.cancel(id)); // stopped, or filled anew
      if (!id) return actions.keep('grid', made);
      cells[row][column] = id;
      actions.keep('grid', { ...made, filling: true });
    }
  actions.keep('grid', made);
}

/** @param {Actions} actions */
function stopAll(actions) {
  const state = actions.state();
  const { grid } = state.local;
  if (grid) actions.keep('grid', { ...grid, cells: [...grid.cells], filling: false }); // what fills these is told by it
  for (const id of cellsOf(state)) if (id && state.runs[id] && !ended(state.runs[id].state)) actions.cancel(id);
}

/** @param {State} state @param {Actions} actions */
function filled(state, actions) {
  const { x, y, xValues, yValues, cells } = state.local.grid;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Grid of ${words(x)} and ${words(y)}">
    <table class="gridded">
      <thead>
        <tr>
          <td class="corner"><span>${words(x)} →</span><span>${words(y)} ↓</span></td>
          ${xValues.map((/** @type {any} */ value) => html`<th scope="col" class="num">${value}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${yValues.map(
          (/** @type {any} */ value, /** @type {number} */ row) => html`<tr>
            <th scope="row" class="num">${value}</th>
            ${xValues.map((/** @type {any} */ other, /** @type {number} */ column) =>
              html`<td>${cell(state, actions, cells[row][column], `${words(x)} ${other}, ${words(y)} ${value}`)}</td>`,
            )}
          </tr>`,
        )}
      </tbody>
    </table>
  </div>`;
}

/** @param {State} state @param {Actions} actions @param {string|null} id @param {string} title */
function cell(state, actions, id, title) {
  const run = id ? state.runs[id] : null;
  if (!run) return state.local.grid.filling ? html`<i class="waiting"></i>` : html`<i class="none">not made</i>`;
  const there = stepsOf(run);
  const picture = run.made[0]
    ? html`<img src=${paths.image(run.id)} alt="" loading="lazy" />`
    : there
      ? html`<lab-raster .picture=${stepPreview(actions, run, there - 1) ?? null}></lab-raster>`
      : html`<i class=${ended(run.state) ? 'none' : 'waiting'}>${ended(run.state) ? run.state : ''}</i>`;
  return html`<button
      type="button"
      class="thumb ${id === state.current ? 'on' : ''}"
      aria-label="Open ${title}"
      @click=${() => {
        actions.open(run.id);
        actions.go('generate');
      }}
    >
      ${picture}
    </button>
    ${
      ended(run.state)
        ? nothing
        : html`<button type="button" class="quiet stop" aria-label="Stop ${title}" @click=${() => actions.cancel(run.id)}>✕</button>`
    }`;
}
