// Generate: the picture large, and every option of a call beside it.

import { html } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import { current, shownStep, titleOf } from '../runs.js';
import { figure, photo } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';

/** @typedef {import('../types.js').View} View */

/** @type {View} */
export const generate = {
  id: 'generate',
  title: 'Generate',
  group: 'Make',
  about: 'From a prompt to a picture. Every option of a call stands beside it; what is left empty is the preset.',
  needs: ['run'],
  render(state, actions) {
    const run = /** @type {import('../types.js').Run} */ (current(state));
    const step = shownStep(state);
    const done = run.done > 0 && state.selection.step === null;
    if (done)
      return html`<div class="stage">
        ${photo(run.recorded ? 'opening/fox.webp' : paths.image(run.id), titleOf(run), titleOf(run))}
      </div>`;
    return html`<div class="stage">
      ${figure({
        picture: step === null ? null : stepPreview(actions, run, step),
        sentence: step === null ? titleOf(run) : `${titleOf(run)}: clean estimate after step ${step + 1} of ${run.total}`,
        smooth: true,
      })}
    </div>`;
  },
};
