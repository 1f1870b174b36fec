// The noise levels of a run: a curve whose dots can be dragged, and where an image enters.

import { html, nothing, svg } from '../vendor/lit-html.js';
import { levelSnippets } from '../copy.js';
import { grid, linear, logarithmic, path, powers } from '../draw/curve.js';
import { short } from '../draw/colours.js';
import { current, shownStep } from '../runs.js';
import { fold, given } from '../parts/experiment.js';

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [960, 420, 64, 936, 18, 376];
const SPACINGS = ['model', 'karras', 'exponential', 'trailing', 'linspace', 'leading', 'beta', 'sgm_uniform'];

/** @type {View} */
export const schedule = {
  id: 'schedule',
  title: 'Schedule',
  group: 'The run',
  about: 'The noise level at which each step begins. Drag a dot up or down, or move it with the arrow keys; the run follows.',
  needs: ['model'],
  copy: levelSnippets,
  render(state, actions) {
    const plan = planOf(state, actions);
    if (plan === undefined) return html`<div class="waiting plot"></div>`;
    if (plan === null) return html`<p class="muted">These options have no schedule. Press Generate to see why.</p>`;
    const own = Array.isArray(state.options.sigmas);
    const preset = /** @type {any} */ (state.about?.preset);
    return html`<div class="tools-row">
        <div class="segments" role="group" aria-label="Spacing">
          ${SPACINGS.map(
            (name) => html`<button
              aria-pressed=${!own && (state.options.sigmas ?? preset.sigmas) === name}
              @click=${() => spacing(state, actions, name)}
            >
              ${name.replace('_', ' ')}
            </button>`,
          )}
        </div>
        ${
          own
            ? html`<button @click=${() => spacing(state, actions, undefined)}>Forget my dots</button>`
            : nothing
        }
        <span class="muted num">${plan.sigmas.length - 1} steps${own ? ', your own levels' : ''}</span>
      </div>
      ${curve(state, actions, plan)} ${state.image ? enters(state, actions) : nothing} ${table(state, actions, plan)}`;
  },
};

/** The plan of the form, which costs no computing. @param {State} state @param {Actions} actions */
function planOf(state, actions) {
  /** @type {Record<string, any>} */
  const request = { prompt: '', ...state.options };
  delete request.branch;
  return actions.answer('plan', { request, image: Boolean(state.image) });
}

/** @param {State} state @param {Actions} actions @param {string|undefined} name */
function spacing(state, actions, name) {
  actions.setOptions({ sigmas: name });
  if (state.options.prompt) actions.generate();
}

/** @param {State} state @param {Actions} actions @param {{sigmas: number[], all: number[], timesteps: number[]}} plan */
function curve(state, actions, plan) {
  const { sigmas } = plan;
  const all = plan.all ?? sigmas;
  const skipped = all.length - sigmas.length;
  const above = all.filter((sigma) => sigma > 0);
  const low = 10 ** Math.floor(Math.log10(Math.min(...above)) - 0.15);
  const x = linear(0, all.length - 1, LEFT + 14, RIGHT - 14);
  const y = logarithmic(low, Math.max(...above) * 1.3, BOTTOM, TOP);
  const at = (/** @type {number} */ sigma) => (sigma > 0 ? y.at(sigma) : BOTTOM);
  const points = /** @type {[number, number][]} */ (all.map((sigma, k) => [x.at(k), at(sigma)]));
  const step = shownStep(state);
  const move = (/** @type {number} */ k, /** @type {number} */ sigma) => drag(state, actions, all, k, sigma);
  const ran = current(state)?.total === sigmas.length - 1;
  const onPointer = (/** @type {PointerEvent} */ event) => {
    const k = Number(/** @type {Element} */ (event.target).getAttribute('data-level') ?? NaN);
    if (Number.isNaN(k) || event.buttons !== 1) return;
    const picture = /** @type {SVGSVGElement} */ (event.currentTarget);
    const box = picture.getBoundingClientRect();
    move(k, y.back(((event.clientY - box.top) / box.height) * HEIGHT));
  };
  const grab = (/** @type {PointerEvent} */ event) => {
    const dot = /** @type {Element} */ (event.target);
    if (dot.hasAttribute('data-level')) dot.setPointerCapture(event.pointerId);
  };
  const key = (/** @type {KeyboardEvent} */ event) => {
    const k = Number(/** @type {Element} */ (event.target).getAttribute('data-level') ?? NaN);
    const by = { ArrowUp: 1.05, ArrowDown: 1 / 1.05, PageUp: 1.3, PageDown: 1 / 1.3 }[event.key];
    if (Number.isNaN(k) || !by) return;
    event.preventDefault();
    move(k, all[k] * by);
    actions.settle();
  };
  return html`<figure class="schedule">
    <svg
      viewBox="0 0 ${WIDTH} ${HEIGHT}"
      role="group"
      aria-label="Noise levels from ${short(all[0])} to ${short(all.at(-1) ?? 0)} in ${all.length - 1} steps"
      @pointerdown=${grab}
      @pointermove=${onPointer}
      @pointerup=${() => actions.settle()}
      @keydown=${key}
    >
      ${grid(powers(low, Math.max(...above) * 1.3), y.at, LEFT, RIGHT, (value) => String(Number(value.toPrecision(1))))}
      <text class="tick" x="12" y=${TOP - 4}>σ</text>
      ${
        skipped
          ? svg`<rect class="skipped" x=${LEFT} y=${TOP} width=${x.at(skipped) - LEFT} height=${BOTTOM - TOP}></rect>
          <text class="tick strong" x=${x.at(skipped) + 8} y=${TOP + 12}>the image enters here, with noise of ${short(all[skipped])}</text>`
          : nothing
      }
      ${step !== null && ran ? svg`<line class="now" x1=${x.at(skipped + step + 1)} x2=${x.at(skipped + step + 1)} y1=${TOP} y2=${BOTTOM}></line>` : nothing}
      <path class="line" d=${path(points)}></path>
      ${all.map(
        (sigma, k) => svg`<circle
          class="dot ${k < skipped ? 'off' : ''} ${sigma > 0 ? '' : 'zero'}"
          data-level=${sigma > 0 ? k : nothing}
          cx=${x.at(k)}
          cy=${at(sigma)}
          r="7"
          tabindex=${sigma > 0 ? 0 : nothing}
          role=${sigma > 0 ? 'slider' : nothing}
          aria-label=${sigma > 0 ? `noise level ${k + 1}` : nothing}
          aria-valuenow=${sigma > 0 ? Number(sigma.toPrecision(4)) : nothing}
          aria-valuemin=${sigma > 0 ? 0 : nothing}
          aria-valuemax=${sigma > 0 ? Number(all[0].toPrecision(4)) : nothing}
        ></circle>`,
      )}
      ${all.map((sigma, k) =>
        all.length <= 26 || k % Math.ceil(all.length / 26) === 0
          ? svg`<text class="tick" x=${x.at(k)} y=${HEIGHT - 22} text-anchor="middle">${sigma > 0 ? k + 1 : 'end'}</text>
            <text class="tick" x=${x.at(k)} y=${HEIGHT - 6} text-anchor="middle">${sigma > 0 ? short(sigma, 2) : '0'}</text>`
          : nothing,
      )}
    </svg>
  </figure>`;
}

/** Move a level between its neighbours; the levels become the request's own. @param {State} state
 * @param {Actions} actions @param {number[]} all @param {number} k @param {number} sigma */
function drag(state, actions, all, k, sigma) {
  const above = k ? all[k - 1] * 0.999 : all[0] * 4;
  const below = (all[k + 1] ?? 0) > 0 ? all[k + 1] * 1.001 : all[k] * 0.2;
  const levels = all.map((value) => Number(value.toPrecision(5)));
  levels[k] = Number(Math.max(below, Math.min(above, sigma)).toPrecision(5));
  actions.setOptions({ sigmas: levels, num_inference_steps: undefined });
  actions.unsettled(() => actions.generate(), () => actions.live());
}

/** @param {State} state @param {Actions} actions */
function enters(state, actions) {
  const value = state.options.strength ?? 0.8;
  return html`<div class="tools-row">
    <label class="wide"
      >strength of the change
      <input
        type="range"
        min="0.05"
        max="1"
        step="0.05"
        .value=${String(value)}
        @input=${given((text) => actions.setOptions({ strength: Number(text) }))}
        @change=${() => state.options.prompt && actions.generate()}
      />
      <output>${short(value, 2)}</output></label
    >
  </div>`;
}

/** @param {State} state @param {Actions} actions @param {{sigmas: number[], timesteps: number[]}} plan */
function table(state, actions, plan) {
  return fold(state, actions, 'numbers', 'The numbers', html`<div class="scroll" tabindex="0" role="region" aria-label="Noise levels as a table">
      <table>
        <thead>
          <tr><th scope="col">step</th><th scope="col">from σ</th><th scope="col">to σ</th><th scope="col">timestep</th></tr>
        </thead>
        <tbody>
          ${plan.sigmas.slice(0, -1).map(
            (sigma, k) => html`<tr>
              <th scope="row">${k + 1}</th>
              <td class="num">${short(sigma, 4)}</td>
              <td class="num">${short(plan.sigmas[k + 1], 4)}</td>
              <td class="num">${short(plan.timesteps[k], 1)}</td>
            </tr>`,
          )}
        </tbody>
      </table>
    </div>`);
}
