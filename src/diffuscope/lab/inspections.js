// Experiments of the server as views see them: asked for once, followed while they run, kept as typed arrays. A view
// that hovers or scrubs reads these arrays and asks the server nothing.

import * as api from './api.js';
import { readTensors } from './tensors.js';

/** @typedef {{key: string, kind: string, id: string|null, state: 'asked'|'queued'|'running'|'done'|'failed'|'cancelled',
 *   done: number, calls: number, steps: number, total: number, error: string|null, tensors: Tensors, about: any, version: number,
 *   answered: Promise<void>}} Inspected */

const MOST_KEPT = 12;
const PAUSE = 400; // milliseconds between two looks at one that runs
const LARGE = 2_000_000; // bytes of a file that is fetched only when it is whole

/** @type {Map<string, Inspected>} */
const known = new Map();
/** @type {Map<string, Inspected>} */
const byJob = new Map();
/** Jobs whose events came before their answer. @type {Set<string>} */
const strangers = new Set();
let touch = () => {};

/** @param {() => void} again called when more is known */
export function whenMoreIsKnown(again) {
  touch = again;
}

/** The request of a run, so that an experiment repeats it: one prompt, its own seed. @param {Run} run */
export function requestOf(run) {
  const given = Object.entries(run.request).filter(([, value]) => value !== null);
  const request = Object.fromEntries(given);
  if (Array.isArray(request.prompt)) request.prompt = request.prompt[0];
  if (run.seeds.length) request.seed = run.seeds[0];
  for (const name of ['num_images_per_prompt', 'batch_size', 'upscale']) delete request[name];
  return request;
}

/** What is known of an experiment, or undefined where it was not begun. @param {string} kind @param {object} call its
 * request and its pictures @param {object} options @returns {Inspected|undefined} */
export const seen = (kind, call, options = {}) => known.get(JSON.stringify([kind, call, options]));

/** Begin an experiment, unless it is known. @param {string} kind @param {object} call @param {object} options
 * @returns {Inspected} */
export function begin(kind, call, options = {}) {
  const key = JSON.stringify([kind, call, options]);
  const found = known.get(key);
  if (found) return found;
  /** @type {Inspected} */
  const entry = {
    ...{ key, kind, id: null, state: 'asked', done: 0, calls: 1, steps: 0, total: 0, error: null },
    ...{ tensors: {}, about: null, version: 0, answered: Promise.resolve() },
  };
  known.set(key, entry);
  touch();
  for (const [old, { id }] of known)
    if (known.size > MOST_KEPT && old !== key) {
      known.delete(old);
      if (id) byJob.delete(id);
    }
  const interactive = kind !== 'ablation-map'; // dozens of runs, which a picture that is asked for may pass
  entry.answered = api.post('inspections', { kind, ...call, options, interactive }).then(
    (made) => {
      Object.assign(entry, { id: made.id, state: made.state, calls: made.calls });
      byJob.set(made.id, entry);
      touch();
      if (strangers.delete(made.id)) look(entry);
    },
    (error) => {
      Object.assign(entry, { state: 'failed', error: error.message });
      touch();
    },
  );
  return entry;
}

/** Forget one that failed, so that it can be asked again. @param {Inspected} entry */
export function forget(entry) {
  known.delete(entry.key);
  touch();
}

/** Whether it goes on. @param {Inspected|undefined} entry */
export const isBusy = (entry) => Boolean(entry && ['asked', 'queued', 'running'].includes(entry.state));

/** An event of the stream; whether it is of an experiment. @param {string} kind @param {any} event */
export function told(kind, event) {
  const entry = byJob.get(event.job);
  if (!entry) {
    strangers.add(event.job);
    for (const old of strangers) if (strangers.size > 100) strangers.delete(old);
    return false;
  }
  if (kind === 'step') entry.steps += 1;
  if (kind === 'image') entry.done += 1;
  if (kind === 'started') entry.state = 'running';
  if (kind === 'failed' || kind === 'cancelled') entry.state = kind;
  if (kind !== 'image') touch();
  if (kind !== 'queued' && kind !== 'started' && isBusy(entry)) look(entry);
  if (kind === 'failed') api.get(`jobs/${event.job}`).then((job) => ((entry.error = job.error), touch()));
  return true;
}

/** Events may be missing: look at all that go on. */
export function lookAgain() {
  for (const entry of known.values()) entry.answered.then(() => (isBusy(entry) ? look(entry) : undefined));
}

/** @type {Map<Inspected, {at: number, busy: boolean, again: boolean, size: number}>} */
const looks = new Map();

/** Fetch what is known of it, not too often. @param {Inspected} entry */
async function look(entry) {
  const state = looks.get(entry) ?? { at: 0, busy: false, again: false, size: 0 };
  looks.set(entry, state);
  state.again = true;
  if (state.busy) return;
  state.busy = true;
  while (state.again) {
    const wait = state.at + (state.size > LARGE ? 8 * PAUSE : PAUSE) - performance.now();
    if (wait > 0) await new Promise((go) => setTimeout(go, wait));
    state.again = false;
    state.at = performance.now();
    try {
      const answer = await api.bytes(`inspections/${entry.id}/tensors`);
      const { tensors, about } = readTensors(answer.buffer);
      state.size = answer.buffer.byteLength;
      const now = /** @type {Inspected['state']} */ (answer.state);
      Object.assign(entry, { tensors, about, version: entry.version + 1 });
      if (isBusy(entry)) entry.state = now; // an answer that was under way is older than the event that ended it
      if (!isBusy(entry)) state.again = false; // it is whole: later events bring nothing more
    } catch (error) {
      if (isBusy(entry)) Object.assign(entry, { state: 'failed', error: /** @type {Error} */ (error).message });
    }
    touch();
  }
  state.busy = false;
  if (!isBusy(entry)) looks.delete(entry);
}

/** Stop one that goes on. @param {Inspected} entry */
export async function stop(entry) {
  await entry.answered;
  if (entry.id) await api.remove(`jobs/${entry.id}`).catch(() => null);
}
