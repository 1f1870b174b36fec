// One option of a call as a field of the form, made from its JSON Schema: a slider, a choice, a switch, a text.

import { html, nothing } from '../vendor/lit-html.js';

/** Where a slider is of use: the usual range and step of an option. The schema's own bounds hold beyond it.
 * @type {Record<string, [number, number, number]>} */
const USUAL = {
  num_inference_steps: [1, 50, 1],
  guidance_scale: [0, 12, 0.1],
  image_guidance_scale: [1, 3, 0.05],
  strength: [0.05, 1, 0.05],
  clip_skip: [0, 3, 1],
  num_images_per_prompt: [1, 16, 1],
  rescale: [0, 1, 0.05],
  eta: [0, 1, 0.05],
  s_churn: [0, 40, 1],
};

/** The names that flags have, where they are shorter. @type {Record<string, string>} */
const SHORT = { num_inference_steps: 'steps', num_images_per_prompt: 'count' };

/** @param {string} name an option's name as words */
export const words = (name) => SHORT[name] ?? name.replaceAll('_', ' ');

/**
 * What a schema asks for, without "or nothing".
 * @param {Schema} schema @returns {{kind: 'choice'|'switch'|'number'|'text'|'list', schema: Schema, choices: any[]}}
 */
export function kindOf(schema) {
  const parts = (schema.anyOf ?? [schema]).filter((part) => part.type !== 'null');
  const choices = parts.flatMap((part) => part.enum ?? []);
  const first = parts.find((part) => !part.enum) ?? parts[0];
  if (choices.length) return { kind: 'choice', schema: first, choices };
  if (first.type === 'boolean') return { kind: 'switch', schema: first, choices };
  if (first.type === 'integer' || first.type === 'number') return { kind: 'number', schema: first, choices };
  return { kind: first.type === 'array' ? 'list' : 'text', schema: first, choices };
}

/**
 * @param {{name: string, schema: Schema, value: any, preset: any, onInput: (value: any) => void,
 *   onChange?: () => void, wrong?: boolean, filled?: boolean, help?: unknown}} what `value` undefined is the preset; `onChange`
 *   follows when the hand has left the field; a `filled` text is the preset itself, to be edited
 */
export function field({ name, schema, value, preset, onInput, onChange = () => {}, wrong = false, filled = false, help = '' }) {
  const { kind, schema: own, choices } = kindOf(schema);
  const id = `option-${name.replaceAll('.', '-')}`;
  const label = words(name.split('.').at(-1) ?? name);
  const set = value !== undefined;
  const shown = shownOf(preset);
  const finish = (/** @type {any} */ next) => {
    onInput(next);
    onChange();
  };
  const control = {
    switch: () => html`<input
      type="checkbox"
      id=${id}
      aria-describedby="${id}-help"
      .checked=${Boolean(value ?? preset)}
      @change=${(/** @type {any} */ event) => finish(event.target.checked || undefined)}
    />`,
    choice: () => html`<select
      id=${id}
      aria-describedby="${id}-help"
      @change=${(/** @type {any} */ event) =>
        finish(choices.find((choice) => String(choice) === event.target.value) ?? undefined)}
    >
      <option value="" .selected=${!set}>${shown ? `${words(shown)} (preset)` : 'preset'}</option>
      ${choices.map((choice) => html`<option value=${choice} .selected=${choice === value}>${words(String(choice))}</option>`)}
      ${Array.isArray(value) ? html`<option value="own" .selected=${true}>${value.length} own values</option>` : nothing}
    </select>`,
    number: () => number(id, name, own, value, preset, onInput, onChange),
    list: () =>
      text(id, Array.isArray(value) ? value.join(', ') : '', shown, wrong, { onChange: (words) => finish(numbers(words)) }),
    text: () =>
      text(id, value ?? (filled ? shown : ''), filled ? '' : shown, wrong, {
        onInput: (words) => onInput(words || (filled ? '' : undefined)),
        onChange,
      }),
  }[kind];
  return html`<div class="field ${kind} ${set ? 'set' : ''} ${wrong ? 'wrong' : ''}">
    <label for=${id}>${label}</label>
    ${
      set
        ? html`<button
            type="button"
            class="quiet reset"
            title="back to the preset"
            aria-label="${label}: back to the preset"
            @click=${() => finish(undefined)}
          >
            ↺
          </button>`
        : nothing
    }
    ${control()}
    <small id="${id}-help">${help}</small>
  </div>`;
}

/** @param {string} id @param {string} name @param {Schema} schema @param {any} value @param {any} preset
 * @param {(value: any) => void} onInput @param {() => void} onChange */
function number(id, name, schema, value, preset, onInput, onChange) {
  const usual = USUAL[name.split('.').at(-1) ?? name];
  const step = schema.type === 'integer' ? 1 : 'any';
  // What is no number yet, such as "-" or "1e", stays as it is typed.
  const read = (/** @type {any} */ { target }) => target.validity.badInput || onInput(target.value === '' ? undefined : Number(target.value));
  const several = Array.isArray(value) && value.length > 1;
  const box = html`<input
    type="number"
    inputmode="decimal"
    id=${id}
    aria-describedby="${id}-help"
    min=${schema.minimum ?? nothing}
    max=${schema.maximum ?? nothing}
    step=${step}
    placeholder=${shownOf(several ? value : preset)}
    .value=${several ? '' : String(value ?? '')}
    @input=${read}
    @change=${onChange}
  />`;
  if (!usual) return box;
  const [low, high, by] = usual;
  return html`<span class="with-slider"
    ><input
      type="range"
      aria-label="${words(name.split('.').at(-1) ?? name)}, slider"
      min=${low}
      max=${high}
      step=${by}
      .value=${String(value ?? preset ?? low)}
      @input=${read}
      @change=${onChange}
    />${box}</span
  >`;
}

/** @param {string} id @param {string} value @param {string} shown @param {boolean} wrong
 * @param {{onInput?: (text: string) => void, onChange: (text: string) => void}} on each letter, and the end of typing */
const text = (id, value, shown, wrong, { onInput, onChange }) => html`<input
  type="text"
  id=${id}
  aria-describedby="${id}-help"
  aria-invalid=${wrong ? 'true' : nothing}
  autocomplete="off"
  placeholder=${shown}
  .value=${value}
  @input=${(/** @type {any} */ event) => onInput?.(event.target.value)}
  @change=${(/** @type {any} */ event) => onChange(event.target.value)}
/>`;

/** @param {any} value */
function shownOf(value) {
  if (value === null || value === undefined || value === false) return '';
  if (Array.isArray(value)) return value.join(', ');
  return typeof value === 'object' ? '' : String(value);
}

/** Numbers in a text, or the text itself where they are none. @param {string} words */
function numbers(words) {
  const parts = words.split(/[\s,]+/).filter(Boolean);
  if (!parts.length) return undefined;
  const values = parts.map(Number);
  return values.some(Number.isNaN) ? words : values;
}
