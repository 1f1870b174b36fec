// What views may do, and what they may ask for. Answers come from a cache; what is missing is fetched, and the page
// renders again when it has come. No view fetches by itself.

import * as api from './api.js';
import * as inspections from './inspections.js';
import { fromHash, toHash } from './hash.js';
import { ended, runOf, told } from './runs.js';

/** @typedef {import('./types.js').State} State */
/** @typedef {import('./types.js').Values} Values */
/** @typedef {import('./types.js').Run} Run */
/** @typedef {import('./types.js').Selection} Selection */
/** @typedef {ReturnType<typeof createActions>} Actions */

const MOST_KEPT = 600; // answers in the cache; arrays of a step are some kilobytes

/**
 * @param {{get: () => State, set: (change: Partial<State>) => void, touch: () => void}} store
 */
export function createActions(store) {
  /** @type {Map<string, {value?: any, error?: Error}>} */
  const cache = new Map();
  const { get, set } = store;
  inspections.whenMoreIsKnown(store.touch);

  /**
   * The answer under a key, or undefined while it is on its way; an error is the answer `null`, and stands in
   * `problem(key)`. The same key is asked once.
   * @param {string} key @param {() => Promise<any>} ask @returns {any}
   */
  function load(key, ask) {
    const known = cache.get(key);
    if (known) return known.error ? null : known.value;
    /** @type {{value?: any, error?: Error}} */
    const entry = {};
    cache.set(key, entry);
    if (cache.size > MOST_KEPT) cache.delete(/** @type {string} */ (cache.keys().next().value));
    ask().then(
      (value) => {
        entry.value = value;
        store.touch();
      },
      (error) => {
        entry.error = error;
        store.touch();
      },
    );
    return undefined;
  }

  /** @param {unknown} error */
  function fail(error) {
    const said = /** @type {any} */ (error);
    set({ error: { message: said.message ?? String(error), argument: said.argument ?? null } });
  }

  /** Submit a job and make it the current run. @param {object} body @returns {Promise<string|null>} */
  async function submit(body) {
    try {
      const made = await api.post('jobs', { interactive: true, ...body });
      set({ error: null });
      adopt(made);
      return made.id;
    } catch (error) {
      fail(error);
      return null;
    }
  }

  /** Take a job of the server into the page. @param {any} described */
  function adopt(described) {
    const state = get();
    const run = runOf(described, state.runs[described.id]);
    const order = state.runs[run.id] ? state.order : [...state.order, run.id];
    set({ runs: { ...state.runs, [run.id]: run }, order });
    return run;
  }

  const actions = {
    load,
    fail,
    submit,
    adopt,
    /** @param {string} key @returns {Error|undefined} why `load` answered null */
    problem: (key) => cache.get(key)?.error,
    /** Forget an answer, so that it is asked again. @param {string} key */
    forget: (key) => cache.delete(key),

    /** An array of a step: kind is "x", "x0" and what else the server keeps. Undefined while it comes.
     * @param {string} job @param {number} step @param {string} kind @param {number} [image]
     * @returns {Values|undefined|null} */
    array(job, step, kind, image = 0) {
      const path = api.paths.step(job, image, step, kind);
      return load(path, () => api.array(path));
    },
    /** Put an answer where `load` finds it. @param {string} key @param {any} value */
    prime: (key, value) => void cache.set(key, { value }),
    /** @param {string} job @param {number} step @param {string} kind @param {Values} value */
    primeArray: (job, step, kind, value) => void cache.set(api.paths.step(job, 0, step, kind), { value }),
    /** An array under any path of the server. @param {string} path @returns {Values|undefined|null} */
    values: (path) => load(path, () => api.array(path)),
    /** A JSON answer to GET. @param {string} path @returns {any} */
    json: (path) => load(path, () => api.get(path)),
    /** A JSON answer to a POST that changes nothing. @param {string} path @param {object} body @returns {any} */
    answer: (path, body) => load(`${path} ${JSON.stringify(body)}`, () => api.post(path, body)),

    /** Change the linked selection. @param {Partial<Selection>} change */
    select(change) {
      set({ selection: { ...get().selection, ...change } });
    },
    /** Show a view. @param {string} view */
    go(view) {
      set({ view, error: null });
    },
    /** Set options of the request; undefined takes one back to the preset. @param {Record<string, any>} change */
    setOptions(change) {
      const options = { ...get().options, ...change };
      for (const name of Object.keys(options)) if (options[name] === undefined) delete options[name];
      set({ options, error: null });
    },
    /** A view's own small state, under its name. @param {string} name @param {any} value */
    keep(name, value) {
      set({ local: { ...get().local, [name]: value } });
    },
    /** @param {Partial<State>} change */
    set,

    /** Generate from the form, with some options changed. @param {Record<string, any>} [change] */
    async generate(change = {}) {
      const state = get();
      const inputs = state.image ? { image: state.image, mask: state.mask } : {};
      const id = await submit({ request: { ...state.options, ...change }, ...inputs });
      if (id) set({ current: id, selection: { ...get().selection, step: null } });
      return id;
    },
    /** A job in a slot: only the latest one goes on. It becomes the current run. @param {string} slot
     * @param {object} body */
    async draft(slot, body) {
      const id = await submit({ slot, ...body });
      if (id) set({ current: id });
      return id;
    },
    /** @param {string} id */
    async cancel(id) {
      try {
        adopt(await api.remove(`jobs/${id}`));
      } catch (error) {
        fail(error);
      }
    },
    /** Show a run; the step stays selected where it has one. @param {string} id */
    open(id) {
      const run = get().runs[id];
      if (run && !run.recorded) set({ current: id, options: { ...run.request } });
      else set({ current: id });
    },
    /** @param {string|null} id the run to compare with */
    compare(id) {
      set({ other: id });
    },

    /** An event of the stream. @param {string} kind @param {any} event */
    async told(kind, event) {
      if (inspections.told(kind, event)) return;
      const run = get().runs[event.job];
      if (!run || ended(kind)) {
        const described = await api.get(`jobs/${event.job}`).catch(() => null);
        if (described && !described.label) adopt(described);
        return;
      }
      set({ runs: { ...get().runs, [run.id]: told(run, kind, event) } });
    },
    /** The address follows the state. */
    writeHash() {
      const hash = `#${toHash(get())}`;
      if (hash !== location.hash) history.replaceState(null, '', hash);
    },
    /** The state follows the address. */
    readHash() {
      set(fromHash(location.hash, get()));
    },
  };
  return actions;
}
