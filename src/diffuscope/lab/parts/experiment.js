// What stands around an experiment of the server: the button that begins it, how far it is, and what went wrong.

import { html, nothing } from '../vendor/lit-html.js';
import { begin, forget, isBusy, requestOf, seen, stop } from '../inspections.js';
import { current, ended } from '../runs.js';

/** What one says before its first step. @type {Record<string, string>} */
const WAITS = { asked: 'asked for', queued: 'waiting for its turn', running: 'the first step is on its way' };
const SMALL = 256 * 256; // pixels; on a model that makes such pictures a look inside costs a moment

/**
 * The experiment of a kind on the run on show; begun by itself where it is cheap and the run has ended
 * (behind a recorded one the page makes its own).
 * @param {State} state @param {string} kind @param {object} [options] @param {{wait?: boolean}} [how] wait for a button
 * @returns {{entry: Inspected|undefined, start: () => void, soon: boolean}} `soon`: it begins by itself when the run has ended
 */
export function experiment(state, kind, options = {}, { wait = false } = {}) {
  const run = /** @type {Run} */ (current(state));
  const request = requestOf(run);
  const call = { request, ...run.inputs };
  const start = () => void begin(kind, call, options);
  const { width = 0, height = 0 } = state.about?.preset ?? {};
  const cheap = (request.width ?? width) * (request.height ?? height) <= SMALL;
  const entry = seen(kind, call, options);
  const begins = !entry && !wait && cheap && Boolean(state.about) && !run.recorded;
  if (begins && run.state === 'done') start();
  const begun = entry ?? seen(kind, call, options);
  if (begun) begun.total = run.total;
  return { entry: begun, start, soon: begins && !begun && !ended(run.state) };
}

/** An experiment that waits for its button: that of the options with which it was begun last, until then of these.
 * @param {State} state @param {Actions} actions @param {string} kind @param {object} options
 * @param {string} title of the button */
export function waiting(state, actions, kind, options, title) {
  const name = `made ${kind}`;
  const made = state.local[name] ?? options;
  const { start } = experiment(state, kind, options, { wait: true });
  const begin = () => {
    actions.keep(name, options);
    start();
  };
  const { entry } = experiment(state, kind, made, { wait: true });
  return { made, begin, entry, line: entry ? progress(entry, { title, costs: '', start: begin }) : nothing };
}

/**
 * One line on an experiment, or nothing where it is done. @param {Inspected|undefined} entry
 * @param {{title: string, costs: string, start: () => void, soon?: boolean}} what
 */
export function progress(entry, { title, costs, start, soon = false }) {
  if (soon) return html`<p class="begin" role="status">It begins when the run has ended.</p>`;
  if (!entry)
    return html`<p class="begin">
      <button class="primary" @click=${start}>${title}</button><span>${costs}</span>
    </p>`;
  if (entry.state === 'failed' || entry.state === 'cancelled')
    return html`<p class="begin" role="status">
      <button @click=${() => forget(entry)}>Again</button>
      <span>${entry.state === 'failed' ? (entry.error ?? 'It failed.') : 'It was stopped.'}</span>
    </p>`;
  if (!isBusy(entry)) return nothing;
  const [done, all, unit] = entry.calls > 1 ? [entry.done, entry.calls, 'runs'] : [entry.steps, entry.total, 'steps'];
  const said = entry.steps ? `${done} of ${all} ${unit}` : WAITS[entry.state];
  return html`<p class="begin busy" role="status">
    <progress max=${Math.max(1, all)} value=${done} aria-label=${title}></progress>
    <button class="quiet" @click=${() => stop(entry)}>Stop</button>
    <span>${said}</span>
  </p>`; // the button before the words: as they change, it stays under the hand
}

/** What a form does when it is submitted. @param {() => void} act */
export const submits = (act) => (/** @type {Event} */ event) => (event.preventDefault(), act());

/** What a control does with its new value. @param {(value: any) => void} use */
export const given = (use) => (/** @type {any} */ event) => use(event.target.value);

/** A choice of a few, as one row of buttons. @template T @param {string} title @param {[T, string][]} choices
 * @param {T} chosen @param {(value: T) => void} choose */
export const segments = (title, choices, chosen, choose) =>
  html`<div class="setting">
    <span class="name">${title}</span>
    <div class="segments" role="group" aria-label=${title}>
      ${choices.map(
        ([value, text]) =>
          html`<button type="button" aria-pressed=${value === chosen} @click=${() => choose(value)}>${text}</button>`,
      )}
    </div>
  </div>`;

/** A choice of many. @param {string} title @param {[string, string][]} choices @param {string} chosen
 * @param {(value: string) => void} choose */
export const dropdown = (title, choices, chosen, choose) =>
  html`<label class="setting"
    ><span class="name">${title}</span>
    <select .value=${chosen} @change=${given(choose)}>
      ${choices.map(([value, text]) => html`<option value=${value} ?selected=${value === chosen}>${text}</option>`)}
    </select></label
  >`;

/** A number on a scale. @param {string} title @param {{min: number, max: number, step: number, value: number}} scale
 * @param {(value: number) => void} choose @param {string} [said] */
export const slider = (title, { min, max, step, value }, choose, said = String(value)) =>
  html`<label class="setting slider"
    ><span class="name">${title} <output>${said}</output></span>
    <input
      type="range"
      min=${min}
      max=${max}
      step=${step}
      .value=${String(value)}
      aria-valuetext=${said}
      @input=${given((text) => choose(Number(text)))}
    /></label>`;

/** A group that stays as it was left, open or closed. @param {State} state @param {Actions} actions @param {string} name
 * @param {unknown} title @param {unknown} content */
export const fold = (state, actions, name, title, content) =>
  html`<details
    class="group"
    ?open=${state.local.open?.[name]}
    @toggle=${(/** @type {any} */ event) => actions.keep('open', { ...actions.state().local.open, [name]: event.target.open })}
  >
    <summary>${title}</summary>
    ${content}
  </details>`;

/** A bar of a share, with its number. @param {number} share 0 to 1 of the whole bar */
export const bar = (share) =>
  html`<svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
    <rect class="ground" width="100" height="8"></rect>
    <rect width=${(100 * Math.max(0, Math.min(1, share))).toFixed(1)} height="8"></rect>
  </svg>`;
