// The form of a call: every option of the JSON Schema, in the groups of `diffuscope generate --help`.

import { html, nothing } from '../vendor/lit-html.js';
import { fold, given } from './experiment.js';
import { field, words } from './field.js';
import { explained } from './terms.js';

const FIRST = ['negative_prompt', 'seed', 'num_inference_steps', 'guidance_scale', 'sampler', 'sigmas'];
/** Stand elsewhere on the page: in the bar, or as a button of a step. */
const ELSEWHERE = ['prompt', 'branch'];

/** Quick settings, as changes of options. @type {[string, (steps: number) => Record<string, any>][]} */
const QUICK = [
  ['Draft', (steps) => ({ num_inference_steps: Math.min(5, steps), upscale: 1 })],
  ['Preset', () => ({ num_inference_steps: undefined, upscale: undefined, sampler: undefined, sigmas: undefined, guidance_scale: undefined })],
  ['Fine', (steps) => ({ num_inference_steps: Math.min(100, steps * 3), upscale: undefined })],
];

/** The options of a call, by name. @param {State} state @returns {Record<string, Schema>} */
export function optionsOf(state) {
  const about = /** @type {any} */ (state.about);
  return (about?.request ?? about?.job?.properties?.request)?.properties ?? {};
}

/** @param {State} state @param {Actions} actions @param {{onInput: () => void, onChange: () => void}} follow called
 * after each change: while a hand is at it, and when it has left */
export function form(state, actions, follow) {
  const all = optionsOf(state);
  const preset = state.about?.preset ?? {};
  let group = '';
  /** @type {Map<string, string[]>} */
  const groups = new Map();
  for (const [name, schema] of Object.entries(all)) {
    group = schema['x-group'] ?? group;
    if (FIRST.includes(name) || ELSEWHERE.includes(name)) continue;
    if (state.about?.absent.includes(name) && state.options[name] === undefined) continue;
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  const one = (/** @type {string} */ name) => option(state, actions, follow, name, all[name], preset);
  return html`<div class="form">
    <div class="quick" role="group" aria-label="Quick settings">
      ${QUICK.map(([title, change]) => {
        const options = change(preset.num_inference_steps);
        const isNow = Object.entries(options).every(([name, value]) => state.options[name] === value);
        return html`<button type="button" aria-pressed=${isNow} @click=${() => (actions.setOptions(options), follow.onChange())}>
          ${title} <small>${costs(state, preset, options)}</small>
        </button>`;
      })}
      <label class="live">
        <input
          type="checkbox"
          .checked=${state.live}
          @change=${(/** @type {any} */ event) => actions.set({ live: event.target.checked })}
        />
        Live: draw while a slider moves
      </label>
    </div>
    ${FIRST.filter((name) => all[name]).map(one)}
    ${[...groups].map(([title, names]) => {
      const changed = names.filter((name) => state.options[name] !== undefined).length;
      return fold(state, actions, title, html`${title}${changed ? html` <b class="count">${changed} set</b>` : nothing}`, names.map(one));
    })}
  </div>`;
}

/** Nested options with one of them changed; undefined where none is left. @param {any} options @param {string} key @param {any} value */
function having(options, key, value) {
  const { [key]: _, ...others } = options ?? {};
  const all = value === undefined ? others : { ...others, [key]: value };
  return Object.keys(all).length ? all : undefined;
}

/** What a quick setting makes: its steps, the size of its picture, and the seconds by the fastest one like it.
 * @param {State} state @param {any} preset @param {Record<string, any>} change */
function costs(state, preset, change) {
  const whole = (/** @type {object} */ request) => ({ ...preset, ...JSON.parse(JSON.stringify(request)) }); // without what is undefined
  const sizeOf = (/** @type {any} */ { width, height, upscale }) => `${width * upscale}×${height * upscale}`;
  const made = whole({ ...state.options, ...change });
  const like = Object.values(state.runs).filter((run) => run.seconds && !run.slot && sizeOf(whole(run.request)) === sizeOf(made));
  const step = Math.min(...like.map((run) => /** @type {number} */ (run.seconds) / run.total / run.images)); // one alone
  const seconds = like.length ? `, about ${Math.ceil(step * made.num_inference_steps)} s` : '';
  return `${made.num_inference_steps} steps, ${sizeOf(made)}${seconds}`;
}

/** @param {State} state @param {Actions} actions @param {{onInput: () => void, onChange: () => void}} follow
 * @param {string} name @param {Schema} schema @param {Record<string, any>} preset */
function option(state, actions, follow, name, schema, preset) {
  const value = state.options[name];
  const wrong = state.error?.argument === name;
  const onInput = (/** @type {any} */ next) => (actions.setOptions({ [name]: next }), follow.onInput());
  const { onChange } = follow;
  if (name === 'sampler') return sampler(state, schema, value, preset, onInput, onChange);
  if (name === 'sampler_options') return samplerOptions(state, actions, follow, preset);
  if (schema.properties) {
    return html`<fieldset>
      <legend>${words(name)}</legend>
      ${Object.entries(schema.properties).map(([key, each]) =>
        field({
          name: `${name}.${key}`,
          schema: each,
          help: explained(each.description ?? '', actions, key),
          value: value?.[key],
          preset: each.default,
          onInput: (next) => onInput(having(value, key, next)),
          onChange,
          wrong: state.error?.argument === `${name}.${key}`,
        }),
      )}
    </fieldset>`;
  }
  const help = explained(schema.description ?? '', actions, name);
  return field({ name, schema, value, preset: preset[name] ?? schema.default, onInput, onChange, wrong, help });
}

/** @param {State} state @param {Schema} schema @param {any} value @param {Record<string, any>} preset
 * @param {(next: any) => void} onInput @param {() => void} onChange */
function sampler(state, schema, value, preset, onInput, onChange) {
  const rows = state.about?.samplers ?? [];
  const label = (/** @type {string} */ name) => rows.find((row) => row.name === name)?.label ?? name;
  const chosen = rows.find((row) => row.name === (value ?? preset.sampler));
  return html`<div class="field choice ${value === undefined ? '' : 'set'}">
    <label for="option-sampler">sampler</label>
    <select
      id="option-sampler"
      aria-describedby="option-sampler-help"
      .value=${value ?? ''}
      @change=${given((name) => (onInput(name || undefined), onChange()))}
    >
      <option value="">${label(preset.sampler)} (preset)</option>
      ${rows.map((row) => html`<option value=${row.name}>${row.label}</option>`)}
    </select>
    <small id="option-sampler-help">${chosen?.about ?? schema.description}</small>
  </div>`;
}

/** The options of the chosen sampler. @param {State} state @param {Actions} actions
 * @param {{onInput: () => void, onChange: () => void}} follow @param {Record<string, any>} preset */
function samplerOptions(state, actions, follow, preset) {
  const name = state.options.sampler ?? preset.sampler;
  const row = /** @type {any} */ (state.about?.samplers.find((each) => each.name === name));
  const options = Object.entries(row?.options ?? {});
  if (!options.length) return nothing;
  const own = state.options.sampler_options;
  return html`<fieldset>
    <legend>options of ${row.label}</legend>
    ${options.map(([key, preset]) =>
      field({
        name: `sampler_options.${key}`,
        schema: { type: typeof preset === 'boolean' ? 'boolean' : typeof preset === 'string' ? 'string' : 'number' },
        value: own?.[key],
        preset,
        onInput: (next) => (actions.setOptions({ sampler_options: having(own, key, next) }), follow.onInput()),
        onChange: follow.onChange,
      }),
    )}
  </fieldset>`;
}
