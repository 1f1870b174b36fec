// Pictures that go into a call: an image to start from, a mask painted over it, or a picture whose settings are taken.

import { html, nothing } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import '../draw/paint.js';

/** @import { Actions } from '../actions.js' */
/** @import { State } from '../types.js' */

/** @param {State} state @param {Actions} actions */
export function inputs(state, actions) {
  const take = (/** @type {any} */ event, /** @type {(file: File) => void} */ use) => {
    if (event.target.files[0]) use(event.target.files[0]);
    event.target.value = '';
  };
  return html`<section class="inputs">
    ${state.image ? painted(state, state.image, actions) : nothing}
    <div class="row">
      <label class="button">
        ${state.image ? 'Another image' : 'Start from an image'}
        <input type="file" class="sr" accept="image/png,image/jpeg,image/webp" @change=${(/** @type {any} */ event) => take(event, actions.useImage)} />
      </label>
      <label class="button">
        Take settings from a picture
        <input type="file" class="sr" accept="image/png,image/jpeg,image/webp" @change=${(/** @type {any} */ event) => take(event, actions.restore)} />
      </label>
    </div>
  </section>`;
}

/** @param {State} state @param {string} image @param {Actions} actions */
function painted(state, image, actions) {
  const brush = state.local.brush ?? 12;
  return html`<div class="painted">
    <lab-paint
      .source=${paths.picture(image)}
      .brush=${brush / 100}
      .label=${'Image input. Paint over what is to be generated anew; the rest stays.'}
      @mask=${(/** @type {CustomEvent} */ event) => actions.setMask(event.detail)}
    ></lab-paint>
    <div class="tools">
      <p>
        ${
          state.mask
            ? html`<b>Inpainting.</b> The painted area is generated, the rest stays.`
            : html`<b>Image to image.</b> Paint on it to generate only a part.`
        }
      </p>
      <label>brush <input type="range" min="3" max="40" .value=${String(brush)} @input=${(/** @type {any} */ event) => actions.keep('brush', Number(event.target.value))} /></label>
      <div class="row">
        <button type="button" ?disabled=${!state.mask} @click=${(/** @type {any} */ event) => event.target.closest('.painted').querySelector('lab-paint').clear()}>
          Clear mask
        </button>
        <button type="button" @click=${actions.removeImage}>Remove image</button>
        <button type="button" class="link" @click=${() => actions.go('schedule')}>Where it enters the schedule</button>
      </div>
    </div>
  </div>`;
}

/** What a picture said of its making. @param {State} state @param {Actions} actions */
export function restored(state, actions) {
  const found = state.local.restored;
  if (!found) return nothing;
  const unused = Object.entries(found.unused ?? {});
  return html`<div class="note" role="status">
    <p>
      Settings of a picture by <b>${found.program}</b>${found.model ? html`, model <code>${found.model}</code>` : nothing}: press Generate to make it again.
      ${found.edits?.length ? html`It was changed by hand (${found.edits.join(', ')}), which no receipt holds.` : nothing}
      ${found.inputs?.length ? html`It was made from an image, which you have to give.` : nothing}
    </p>
    ${(found.notes ?? []).map((/** @type {string} */ note) => html`<p>${note}</p>`)}
    ${unused.length ? html`<p>Not used here: ${unused.map(([key, value]) => html`<code>${key}: ${value}</code> `)}</p>` : nothing}
    <button type="button" class="quiet" aria-label="Dismiss" @click=${() => actions.keep('restored', null)}>✕</button>
  </div>`;
}
