// Jobs of the server as runs of the page: plain functions from one to the next.

/** @param {string} state */
export const ended = (state) => state === 'done' || state === 'failed' || state === 'cancelled';

/** Options without those that are left to the preset. @param {Record<string, any>} options
 * @param {Record<string, any>} defaults */
export function compact(options, defaults) {
  return Object.fromEntries(
    Object.entries(options).filter(([name, value]) => {
      const text = JSON.stringify(value);
      return value !== null && text !== '{}' && text !== JSON.stringify(defaults[name]);
    }),
  );
}

/** Options after a change of some. One that holds for a whole run, such as the seed, ends a branch.
 * @param {State} state @param {Record<string, any>} options @param {Record<string, any>} change @returns {Record<string, any>} */
export function withChange(state, options, change) {
  const all = { ...options, ...change };
  const whole = state.about?.whole_run ?? [];
  if (!('branch' in change) && whole.some((name) => name in change && change[name] !== options[name])) delete all.branch;
  for (const name of Object.keys(all)) if (all[name] === undefined) delete all[name];
  return all;
}

/** The ids of a call's pictures, as the server takes them. @param {string|null} image @param {string|null} mask
 * @returns {Record<string, string>} */
export const inputsOf = (image, mask) => (image ? { image, ...(mask ? { mask_image: mask } : {}) } : {});

/** A job as the server describes it. @param {any} job @param {Run} [known] @param {Record<string, any>} [defaults]
 * @returns {Run} */
export function runOf(job, known, defaults = {}) {
  if (known && ended(known.state) && !ended(job.state)) return known; // an older answer that came late
  const late = known?.state === 'running' && job.state === 'queued';
  const sigmas = job.sigmas ?? [];
  return {
    id: job.id,
    request: compact(job.request ?? known?.request ?? {}, defaults),
    seeds: job.seeds ?? [],
    state: late ? 'running' : job.state,
    images: job.images,
    made: job.pictures.map((/** @type {string|null} */ id, /** @type {number} */ k) => id !== null || (known?.made[k] ?? false)),
    steps: (job.steps ?? []).map((/** @type {number} */ count, /** @type {number} */ k) => Math.max(count, known?.steps[k] ?? 0)),
    sigmas,
    total: Math.max(0, sigmas.length - 1),
    slot: job.slot || null,
    from: job.from ?? null,
    error: job.error ?? null,
    notes: job.notes ?? [],
    inputs: inputsOf(job.image ?? null, job.mask_image ?? null),
    seconds: job.seconds,
  };
}

/** A run after an event, which may be older than what is known of it. @param {Run} run @param {string} kind @param {any} event @returns {Run} */
export function told(run, kind, event) {
  if (kind === 'image') return { ...run, made: run.made.with(event.image, true) };
  if (ended(run.state)) return run;
  if (kind === 'started') return { ...run, state: 'running' };
  if (kind !== 'step') return run;
  const steps = [...run.steps];
  steps[event.image] = Math.max(steps[event.image] ?? 0, event.step + 1);
  return { ...run, state: 'running', steps };
}

/** The run on show. @param {State} state @returns {Run|null} */
export const current = (state) => (state.current ? (state.runs[state.current] ?? null) : null);

/** Steps of image 0 that are there. @param {Run|null} run */
export const stepsOf = (run) => (run ? (run.steps[0] ?? 0) : 0);

/** The step that is chosen, or null. Where none is, Branch offers the one at which the run branched last, or an early one, at
 * which the picture is still open. @param {State} state @param {Run|null} [run] @returns {number|null} */
export function chosenStep(state, run = current(state)) {
  if (state.selection.step !== null || state.view !== 'branch' || !run) return state.selection.step;
  return Math.max(0, Math.min(run.from ? run.from.step - 1 : run.total >> 2, run.total - 2));
}

/** The step on show: the chosen one, or the last that is there; null where there is none yet.
 * @param {State} state @param {Run|null} [run] @returns {number|null} */
export function shownStep(state, run = current(state)) {
  const there = stepsOf(run);
  if (!there) return null;
  const step = chosenStep(state, run);
  return step === null ? there - 1 : Math.min(step, there - 1);
}

/** What a run says of itself in one line. @param {Run} run */
export function titleOf(run) {
  const { prompt } = run.request;
  const text = Array.isArray(prompt) ? prompt.join(' · ') : (prompt ?? '');
  return text.trim() || 'no prompt';
}

/** The prompt of the run on show; of several the first. @param {State} state @returns {string} */
export const promptOf = (state) => [current(state)?.request.prompt].flat()[0] ?? '';

/** The words of a text, each once. @param {string} text @returns {string[]} */
export const wordsOf = (text) => [...new Set(text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [])];

/** Width and height of the latents of the run on show, in cells: what a position is counted in.
 * @param {State} state @returns {[number, number]} */
export function gridOf(state) {
  const { preset, latents } = state.about ?? {};
  const request = current(state)?.request ?? {};
  const side = (/** @type {'width'|'height'} */ name) =>
    Math.max(1, Math.round((request[name] ?? preset?.[name] ?? 128) / (latents?.factor ?? 8)));
  return [side('width'), side('height')];
}
