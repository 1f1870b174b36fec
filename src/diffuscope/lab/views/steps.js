// The run as it goes: latents and clean estimate at each step.

import { html } from '../vendor/lit-html.js';
import { current, shownStep } from '../runs.js';
import { largest, mapped, short } from '../draw/colours.js';
import { figure } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';

/** @typedef {import('../types.js').View} View */

/** @type {View} */
export const steps = {
  id: 'steps',
  title: 'Steps',
  group: 'Look',
  about: 'What the sampler holds after each step, and the clean picture that the network expects at its end.',
  needs: ['run', 'step'],
  source: 'pipeline/run.py',
  render(state, actions) {
    const run = /** @type {import('../types.js').Run} */ (current(state));
    const step = /** @type {number} */ (shownStep(state));
    const x0 = actions.array(run.id, step, 'x0');
    const [channels, height, width] = x0?.shape ?? [4, 16, 16];
    const most = x0 ? largest(x0.data) : 1;
    const { place } = state.selection;
    const onPlace = (/** @type {[number, number]|null} */ at) => actions.select({ place: at });
    return html`<div class="cards">
      ${figure({
        picture: stepPreview(actions, run, step),
        sentence: `Clean estimate after step ${step + 1} of ${run.total}, as colours`,
        caption: html`<b>x0</b> as colours`,
        place,
        onPlace,
      })}
      ${Array.from({ length: channels }, (_, c) =>
        figure({
          picture: x0 && mapped(x0.data, width, height, 'signed', -most, most, c * width * height),
          sentence: `Channel ${c} of the clean estimate after step ${step + 1} of ${run.total}`,
          caption: html`channel ${c}`,
          place,
          onPlace,
          read: (x, y) => (x0 ? short(x0.data[c * width * height + y * width + x]) : ''),
        }),
      )}
    </div>`;
  },
};
