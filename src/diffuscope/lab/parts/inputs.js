// Pictures that go into a call: an image to start from, a mask painted over it, or a picture whose settings are taken.

import { html, nothing } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import { given } from './experiment.js';
import { optionsOf } from './form.js';
import '../draw/paint.js';

/** @param {State} state @param {Actions} actions */
export function inputs(state, actions) {
  const file = (/** @type {string} */ title, /** @type {(file: File) => void} */ use) => html`<label class="button">
    ${title}
    <input
      type="file"
      class="sr"
      accept="image/png,image/jpeg,image/webp"
      @change=${(/** @type {any} */ { target }) => {
        if (target.files[0]) use(target.files[0]);
        target.value = '';
      }}
    />
  </label>`;
  return html`<section class="inputs">
    ${state.image ? painted(state, state.image, actions) : nothing}
    <div class="row">
      ${file(state.image ? 'Another image' : 'Start from an image', actions.useImage)}
      ${file('Take settings from a picture', actions.restore)}
    </div>
  </section>`;
}

/** @param {State} state @param {string} image @param {Actions} actions */
function painted(state, image, actions) {
  const brush = state.local.brush ?? 12;
  const strength = state.options.strength ?? optionsOf(state).strength?.default ?? 0.8;
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
      <label>brush <input type="range" min="3" max="40" .value=${String(brush)} @input=${given((text) => actions.keep('brush', Number(text)))} /></label>
      <label
        >strength ${strength.toFixed(2)}
        <input type="range" min="0.05" max="1" step="0.05" .value=${String(strength)}
          @input=${given((text) => actions.setOptions({ strength: Number(text) }))} /></label>
      <div class="row">
        <button ?disabled=${!state.mask} @click=${(/** @type {any} */ event) => event.target.closest('.painted').querySelector('lab-paint').clear()}>
          Clear mask
        </button>
        <button @click=${actions.removeImage}>Remove image</button>
        <button class="link" @click=${() => actions.go('schedule')}>Where it enters the schedule</button>
      </div>
    </div>
  </div>`;
}

/** What a picture said of its making. @param {State} state @param {Actions} actions */
export function restored(state, actions) {
  const found = state.local.restored;
  if (!found) return nothing;
  if (found.plain)
    return html`<div class="note" role="status">
      <p>This picture does not say how it was made, so it is the image to start from.</p>
      <button class="quiet" aria-label="Dismiss" @click=${() => actions.keep('restored', null)}>✕</button>
    </div>`;
  const unused = Object.entries(found.unused ?? {});
  return html`<div class="note" role="status">
    <p>
      Settings of a picture by <b>${found.program}</b>${found.model ? html`, model <code>${found.model}</code>` : nothing}: press Generate to make it again.
      ${found.edits?.length ? html`It was changed by hand (${found.edits.join(', ')}), which no receipt holds.` : nothing}
      ${found.inputs?.length ? html`It was made from an image, which you have to give.` : nothing}
    </p>
    ${(found.notes ?? []).map((/** @type {string} */ note) => html`<p>${note}</p>`)}
    ${unused.length ? html`<p>Not used here: ${unused.map(([key, value]) => html`<code>${key}: ${value}</code> `)}</p>` : nothing}
    <button class="quiet" aria-label="Dismiss" @click=${() => actions.keep('restored', null)}>✕</button>
  </div>`;
}
