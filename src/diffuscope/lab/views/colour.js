// Loss guidance: a colour as a goal, and the push that its gradient gives the clean estimate at each step.

import { html, nothing } from '../vendor/lit-html.js';
import { callsOf } from '../attention.js';
import { inspectionSnippets } from '../copy.js';
import { largest, mapped, short } from '../draw/colours.js';
import { given, slider, submits, waiting } from '../parts/experiment.js';
import { figure, named } from '../parts/figure.js';
import { preview } from '../parts/preview.js';
import { part, pictureOf } from '../tensors.js';

const KIND = 'colour';

/** @type {View} */
export const colour = {
  id: 'colour',
  title: 'Loss guidance',
  group: 'Change',
  about: 'Any function of the picture can guide it: here the distance from a colour. Its gradient pushes each estimate.',
  needs: ['model', 'run'],
  render(state, actions) {
    const { entry, line, begin } = waiting(state, actions, KIND, optionsOf(state), 'Guide');
    return html`${form(state, actions, begin)}
    ${line}
    ${entry ? shown(state, actions, entry) : nothing}`;
  },
  copy: (state) => inspectionSnippets(state, KIND, optionsOf(state), 'push'),
};

/** @param {State} state */
function optionsOf(state) {
  const { hex = '#1ae680', scale = 10 } = state.local.colour ?? {};
  const channels = [1, 3, 5].map((at) => Math.round((parseInt(hex.slice(at, at + 2), 16) / 255) * 1000) / 1000);
  return { colour: channels, scale };
}

/** @param {State} state @param {Actions} actions @param {() => void} begin */
function form(state, actions, begin) {
  const { scale } = optionsOf(state);
  const hex = state.local.colour?.hex ?? '#1ae680';
  const set = (/** @type {object} */ change) => actions.keep('colour', { ...state.local.colour, ...change });
  return html`<form
    class="line-up controls"
    @submit=${submits(begin)}
  >
    <label class="setting"
      ><span class="name">Colour</span>
      <input type="color" .value=${hex} @input=${given((hex) => set({ hex }))} />
    </label>
    ${slider('Weight', { min: 0, max: 40, step: 1, value: scale }, (value) => set({ scale: value }))}
    <button class="primary" type="submit">Guide</button>
  </form>`;
}

/** @param {State} state @param {Actions} actions @param {Inspected} entry */
function shown(state, actions, entry) {
  const { tensors, about } = entry;
  const pair = html`<div class="cards">
    ${['without the loss', 'guided by it'].map((name, k) => named(pictureOf(tensors, k), name, `The picture ${name}`))}
  </div>`;
  return tensors.done ? html`${pair}${step(state, actions, tensors, about)}` : nothing;
}

/** @param {State} state @param {Actions} actions @param {Tensors} tensors @param {any} about */
function step(state, actions, tensors, about) {
  if (!tensors.push) return nothing;
  const there = tensors.push.shape[0];
  const shown = state.selection.step ?? Math.floor((3 * there) / 4);
  const call = callsOf(about, shown, there).from;
  const x0 = part(tensors.x0, call);
  const push = part(tensors.push, call);
  const [channels, height, width] = push.shape;
  const cells = height * width;
  const size = new Float32Array(cells);
  for (let i = 0; i < cells; i++) {
    let sum = 0;
    for (let c = 0; c < channels; c++) sum += push.data[c * cells + i] ** 2;
    size[i] = Math.sqrt(sum / channels);
  }
  const pushed = Float32Array.from(x0.data, (value, i) => value + push.data[i]);
  const high = largest(size);
  const at = `step ${shown + 1}`;
  return html`<h2 class="over">What the gradient does at ${at}</h2>
  <div class="cards">
  ${named(preview(actions, /** @type {any} */ (x0)), 'estimate', `The clean estimate at ${at}, before the push`, ` · ${at}`)}
  ${figure({
    picture: mapped(size, width, height, 'heat', 0, high),
    sentence: `The push of the gradient at ${at}: at most ${short(high)} of a latent`,
    caption: html`<span><b>the push</b> · at most ${short(high)}</span>`,
    read: (x, y) => short(size[y * width + x]),
  })}
  ${named(preview(actions, { data: pushed, shape: push.shape }), 'estimate and push', `The clean estimate at ${at}, after the push`, ` · ${at}`)}
  </div>`;
}
