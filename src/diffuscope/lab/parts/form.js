// The form of a call: every option of the JSON Schema, in the groups of `diffuscope generate --help`.

import { html, nothing } from '../vendor/lit-html.js';
import { field, words } from './field.js';
import { explained } from './terms.js';

/** @import { Actions } from '../actions.js' */
/** @import { Schema, State } from '../types.js' */

const FIRST = ['negative_prompt', 'seed', 'num_inference_steps', 'guidance_scale', 'sampler', 'sigmas'];
/** Stand elsewhere on the page: in the bar, or as a button of a step. */
const ELSEWHERE = ['prompt', 'branch'];

/** Quick settings, as changes of options. @type {[string, string, (preset: any) => Record<string, any>][]} */
const QUICK = [
  ['Draft', 'few steps, no upscaling', (preset) => ({ num_inference_steps: Math.min(5, preset.num_inference_steps), upscale: 1 })],
  ['Preset', "the model's own settings", () => ({ num_inference_steps: undefined, upscale: undefined, sampler: undefined, sigmas: undefined, guidance_scale: undefined })],
  ['Fine', 'three times the steps', (preset) => ({ num_inference_steps: Math.min(100, preset.num_inference_steps * 3), upscale: undefined })],
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
    groups.set(group, [...(groups.get(group) ?? []), name]);
  }
  const one = (/** @type {string} */ name) => option(state, actions, follow, name, all[name], preset);
  return html`<div class="form">
    <div class="quick row" role="group" aria-label="Quick settings">
      ${QUICK.map(
        ([title, about, change]) =>
          html`<button type="button" title=${about} @click=${() => (actions.setOptions(change(preset)), follow.onChange())}>
            ${title}
          </button>`,
      )}
      <label class="live">
        <input
          type="checkbox"
          .checked=${state.live}
          @change=${(/** @type {any} */ event) => actions.set({ live: event.target.checked })}
        />
        Live: draw while a slider moves
      </label>
    </div>
    ${
      state.options.branch
        ? html`<p class="warned">
            Up to step ${state.options.branch.step} it follows another run.
            <button type="button" class="link" @click=${() => actions.setOptions({ branch: undefined })}>Generate all of them</button>
          </p>`
        : nothing
    }
    ${FIRST.filter((name) => all[name]).map(one)}
    ${[...groups].map(([title, names]) => {
      const changed = names.filter((name) => state.options[name] !== undefined).length;
      return html`<details class="group">
        <summary>${title}${changed ? html` <b class="count">${changed} set</b>` : nothing}</summary>
        ${names.map(one)}
      </details>`;
    })}
  </div>`;
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
    const inner = value ?? {};
    const set = (/** @type {string} */ key, /** @type {any} */ next) => {
      const changed = { ...inner, [key]: next };
      for (const each of Object.keys(changed)) if (changed[each] === undefined) delete changed[each];
      onInput(Object.keys(changed).length ? changed : undefined);
    };
    return html`<fieldset>
      <legend>${words(name)}</legend>
      ${Object.entries(schema.properties).map(([key, each]) =>
        field({
          name: `${name}.${key}`,
          schema: each,
          help: explained(each.description ?? '', actions, key),
          value: inner[key],
          preset: each.default,
          onInput: (next) => set(key, next),
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
      @change=${(/** @type {any} */ event) => (onInput(event.target.value || undefined), onChange())}
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
  const inner = state.options.sampler_options ?? {};
  return html`<fieldset>
    <legend>options of ${row.label}</legend>
    ${options.map(([key, preset]) =>
      field({
        name: `sampler_options.${key}`,
        schema: { type: typeof preset === 'boolean' ? 'boolean' : typeof preset === 'string' ? 'string' : 'number' },
        value: inner[key],
        preset,
        onInput: (next) => {
          const changed = { ...inner, [key]: next };
          if (next === undefined) delete changed[key];
          actions.setOptions({ sampler_options: Object.keys(changed).length ? changed : undefined });
          follow.onInput();
        },
        onChange: follow.onChange,
      }),
    )}
  </fieldset>`;
}
