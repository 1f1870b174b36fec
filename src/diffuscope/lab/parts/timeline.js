// The timeline: the clean estimate after each step of the run on show, and the finished picture at its end. It scrubs
// every view at once.

import { html, nothing } from '../vendor/lit-html.js';
import { paths } from '../api.js';
import { chosenStep, current, ended, shownStep, stepsOf } from '../runs.js';
import { short } from '../draw/colours.js';
import { stepPreview } from './preview.js';
import '../draw/raster.js';

const MOST = 64; // thumbnails; longer runs show every second step, or fewer

/** @param {State} state @param {Actions} actions */
export function timeline(state, actions) {
  const run = current(state);
  if (!run) return nothing;
  const shown = shownStep(state);
  const there = stepsOf(run);
  const total = Math.max(run.total, there);
  const every = Math.ceil(total / MOST);
  const steps = Array.from({ length: Math.ceil(total / every) }, (_, k) => Math.min(total - 1, k * every));
  const selected = chosenStep(state);
  const move = (/** @type {KeyboardEvent} */ event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -4, PageDown: 4 }[event.key];
    const to = { Home: 0, End: there - 1 }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    const now = shownStep(actions.state()) ?? 0; // two keys may come before the next rendering
    actions.select({ step: to ?? Math.max(0, Math.min(there - 1, now + (by ?? 0))) });
  };
  const drag = (/** @type {PointerEvent} */ event) => {
    if (event.buttons !== 1) return;
    const cell = document.elementFromPoint(event.clientX, event.clientY)?.closest('[data-step]');
    const step = Number(cell?.getAttribute('data-step') ?? NaN);
    if (step < there && step !== actions.state().selection.step) actions.select({ step });
  };
  const thumbnail = (/** @type {number} */ step) => {
    const picture = step < there ? stepPreview(actions, run, step) : null;
    return picture ? html`<lab-raster .picture=${picture}></lab-raster>` : html`<i class="waiting"></i>`;
  };
  const said = shown === null ? 'no step yet' : `step ${shown + 1} of ${total}`;
  return html`<p class="what" aria-hidden="true">Clean estimates, as colours of the latents</p>
  <div
    class="strip"
    role="slider"
    tabindex="0"
    aria-label="Step of the run"
    aria-valuemin="1"
    aria-valuemax=${Math.max(1, there)}
    aria-valuenow=${(shown ?? 0) + 1}
    aria-valuetext=${said}
    @keydown=${move}
    @pointermove=${drag}
    @pointerdown=${drag}
  >
    ${steps.map(
      (step) => html`<span
        data-step=${step}
        class=${shown !== null && selected !== null && step <= shown && shown < step + every ? 'on' : ''}
        title="after step ${step + 1}, noise level ${short(run.sigmas[step + 1] ?? 0)}"
      >
        ${thumbnail(step)}
        <small>${step ? '' : 'step '}${step + 1}</small>
      </span>`,
    )}
  </div>
    ${
      selected === null || run.recorded || !ended(run.state) || state.view === 'branch'
        ? nothing
        : html`<button class="here" aria-label="Branch after ${(shown ?? 0) + 1}" @click=${() => actions.go('branch')}>Branch <span>after ${(shown ?? 0) + 1}</span></button>`
    }
    <button
      class="end ${selected === null ? 'on' : ''}"
      @click=${() => actions.select({ step: null })}
      title="the finished picture"
      aria-label="The finished picture"
    >
      ${
        run.made[0]
          ? html`<img src=${run.recorded ? 'opening/fox.webp' : paths.image(run.id)} alt="" />`
          : html`<i class="waiting"></i>`
      }
      <small>${ended(run.state) ? run.state : run.state === 'queued' ? 'waiting' : 'running'}</small>
    </button>`;
}
