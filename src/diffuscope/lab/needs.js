// What a view can need: a condition by name, and the sentence that stands in the view's place where it is not met.

import { current, ended, stepsOf } from './runs.js';

/** @type {Record<string, (state: State) => string|null>} name -> sentence, or null where all is well */
const NEEDS = {
  model: (state) => (state.about ? null : 'There is no model yet. If none comes, open the address that `diffuscope lab` printed.'),
  run: (state) => (current(state) ? null : 'There is no run yet. Write a prompt above and press Generate.'),
  step: (state) => {
    const run = current(state);
    if (stepsOf(run)) return null;
    if (run?.state === 'failed') return `The run failed: ${run.error}`;
    return run && ended(run.state) ? 'The run was stopped before its first step.' : 'The run has not made its first step yet.';
  },
  oneEncoder: (state) =>
    (state.about?.text_encoders?.length ?? 1) === 1
      ? null
      : 'This model reads its text with two encoders; their layers cannot be cut off one by one.',
  guided: (state) => {
    const run = current(state);
    const scale = run?.request.guidance_scale ?? state.about?.preset.guidance_scale;
    return scale === 1 || scale === 0 ? 'This run had no guidance: its scale was 1, so the network was asked once.' : null;
  },
  whole: (state) =>
    current(state)?.request.branch ? 'This run is a branch. Prompt-to-prompt needs a run that has made all of its steps: press Generate.' : null,
  live: (state) =>
    current(state)?.recorded ? 'This picture was recorded. Press Generate to make one of your own.' : null,
};

/** @param {string[]} names @param {State} state @returns {string|null} the first that is not met */
export function unmet(names, state) {
  for (const name of names) {
    const sentence = NEEDS[name]?.(state);
    if (sentence) return sentence;
  }
  return null;
}
