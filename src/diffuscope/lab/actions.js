// What views may do, and what they may ask for. Answers come from a cache; what is missing is fetched, and the page
// renders again when it has come. No view fetches by itself.

import * as api from './api.js';
import * as inspections from './inspections.js';
import { fromHash, toHash } from './hash.js';
import { words } from './parts/field.js';
import { optionsOf } from './parts/form.js';
import { ended, inputsOf, runOf, told, withChange } from './runs.js';

/** @typedef {ReturnType<typeof createActions>} Actions */

const answerKey = (/** @type {string} */ path, /** @type {object} */ body) => `${path} ${JSON.stringify(body)}`;
const MOST_KEPT = 600; // answers in the cache; arrays of a step are some kilobytes

/**
 * @param {{get: () => State, set: (change: Partial<State>) => void, touch: () => void}} store
 */
export function createActions(store) {
  /** @typedef {{value?: any, error?: Error, asked?: Promise<void>}} Answer */
  /** @type {Map<string, Answer>} */
  const cache = new Map();
  const { get, set } = store;
  inspections.whenMoreIsKnown(store.touch);

  /** @param {string} key @param {Answer} entry the oldest makes room for it */
  function keep(key, entry) {
    cache.set(key, entry);
    if (cache.size > MOST_KEPT) cache.delete(/** @type {string} */ (cache.keys().next().value));
  }

  /**
   * The answer under a key, or undefined while it is on its way; an error is the answer `null`. The same key is asked once.
   * @param {string} key @param {() => Promise<any>} ask @returns {any}
   */
  function load(key, ask) {
    const known = cache.get(key);
    if (known) return known.error ? null : known.value;
    /** @type {Answer} */
    const entry = {};
    keep(key, entry);
    entry.asked = ask().then(
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
    const argument = said.argument?.replace(/^request\./, '') ?? null; // the form knows options alone
    const [, rest] = (argument && /^[\w.]+(: .*)/s.exec(said.message)) || []; // it begins with the option, which the form calls by its label
    const message = rest ? `${words(argument.split('.').at(-1))}${rest}` : String(said.message ?? error);
    set({ error: { message, argument } });
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
    const run = runOf(described, state.runs[described.id], defaultsOf(state));
    const order = state.runs[run.id] ? state.order : [...state.order, run.id];
    set({ runs: { ...state.runs, [run.id]: run }, order });
    return run;
  }

  const drafts = oneAtATime();
  const last = latest();
  /** Pictures on their way to the server, for which a call waits. @type {Promise<unknown>} */
  let sending = Promise.resolve();
  /** @type {(() => void)|null} */
  let settled = null;

  /** Send a picture; the last one of its name is used. @param {string} name @param {Blob|Promise<Blob>} picture
   * @param {(id: string) => void} use */
  function send(name, picture, use) {
    const counts = last(name);
    const work = async () => {
      try {
        const { id } = await api.upload('pictures', { picture: await picture });
        if (counts()) use(id);
      } catch (error) {
        fail(error);
      }
    };
    const sent = work();
    sending = Promise.all([sending, sent]);
    return sent;
  }

  const actions = {
    /** The state as it is now, for handlers that outlive a rendering. */
    state: get,
    load,
    fail,
    submit,
    adopt,
    /** @param {string} path @param {object} body @returns {Error|undefined} why `answer` is null */
    problem: (path, body) => cache.get(answerKey(path, body))?.error,
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
    prime: (key, value) => keep(key, { value }),
    /** @param {string} job @param {number} step @param {string} kind @param {Values} value
     * @param {number} [image] */
    primeArray: (job, step, kind, value, image = 0) => keep(api.paths.step(job, image, step, kind), { value }),
    /** An array under any path of the server. @param {string} path @returns {Values|undefined|null} */
    values: (path) => load(path, () => api.array(path)),
    /** A JSON answer to GET. @param {string} path @returns {any} */
    json: (path) => load(path, () => api.get(path)),
    /** The same once it is here; undefined where it failed. @param {string} path @returns {Promise<any>} */
    async answered(path) {
      actions.json(path);
      const entry = cache.get(path);
      await entry?.asked;
      return entry?.value;
    },
    /** A JSON answer to a POST that changes nothing. @param {string} path @param {object} body @returns {any} */
    answer: (path, body) => load(answerKey(path, body), () => api.post(path, body)),

    /** Change the linked selection. @param {Partial<Selected>} change */
    select(change) {
      set({ selection: { ...get().selection, ...change } });
    },
    /** Show a view. @param {string} view */
    go(view) {
      set({ view, error: null });
    },
    /** Set options of the request; undefined takes one back to the preset. @param {Record<string, any>} change */
    setOptions(change) {
      set({ options: withChange(get(), get().options, change), error: null });
    },
    /** A view's own small state, under its name. @param {string} name @param {any} value */
    keep(name, value) {
      set({ local: { ...get().local, [name]: value } });
    },
    /** @param {Partial<State>} change */
    set,

    /** Generate from the form, with some options changed. @param {Record<string, any>} [change] */
    async generate(change = {}) {
      drafts.drop();
      const counts = last('current');
      await sending;
      const state = get();
      const id = await submit({ request: { ...state.options, ...change }, ...inputsOf(state.image, state.mask) });
      if (id) actions.keep('restored', null); // it has been used
      if (id && counts()) set({ current: id, selection: { ...get().selection, step: null } });
      return id;
    },
    /** A draft of the form while a hand moves: few steps, and only the latest goes on. */
    live() {
      const state = get();
      const steps = Math.min(5, state.options.num_inference_steps ?? state.about?.preset.num_inference_steps ?? 5);
      /** @type {Record<string, any>} */
      const request = { ...state.options, num_inference_steps: steps, upscale: 1, num_images_per_prompt: 1 };
      if (Array.isArray(request.sigmas)) delete request.num_inference_steps;
      drafts.ask(() => actions.draft('live', { request, ...inputsOf(state.image, state.mask) }));
    },
    /** Something is being dragged: `now` follows it where the page is live, `then` when the hand has left.
     * @param {() => void} then @param {() => void} now */
    unsettled(then, now) {
      settled = then;
      if (get().live) now();
    },
    /** The hand has left. */
    settle() {
      const then = settled;
      settled = null;
      if (then && get().options.prompt) then();
    },
    /** Go on from a step of a run with something changed. @param {string} job @param {number} step how many of its
     * steps are kept, minus one @param {Record<string, any>} change @param {object|null} [x] latents in their place */
    async branch(job, step, change, x = null) {
      const counts = last('current');
      const id = await submit({ request: change, from: { job, step: step + 1, ...(x ? { x } : {}) } });
      const options = { ...get().options, ...change };
      if (id && counts()) set({ current: id, other: job, options, selection: { ...get().selection, step: null } });
      return id;
    },
    /** Start from an image: a file, or the address of one that was made here. @param {Blob|string} image */
    async useImage(image) {
      last('mask');
      await send('image', typeof image === 'string' ? fetch(image).then((answer) => answer.blob()) : image, (id) =>
        set({ image: id, mask: null, error: null }),
      );
    },
    removeImage() {
      last('image');
      last('mask');
      set({ image: null, mask: null });
    },
    /** @param {Blob|null} mask white where the picture is generated anew */
    async setMask(mask) {
      if (mask) return send('mask', mask, (id) => set({ mask: id }));
      last('mask');
      set({ mask: null });
    },
    /** Take the settings that a picture says of itself. @param {Blob} file @param {boolean} [dropped] anywhere: without
     * settings it is the image to start from */
    async restore(file, dropped = false) {
      const counts = last('restored');
      try {
        const found = await api.upload('receipt', { picture: file });
        if (counts()) set({ view: 'generate', options: found.request, error: null, local: { ...get().local, restored: found } });
      } catch (error) {
        actions.keep('restored', null);
        if (!dropped || !/without a receipt/.test(String(error))) return fail(error);
        await actions.useImage(file);
        if (get().image && !get().error) set({ view: 'generate', local: { ...get().local, restored: { plain: true } } });
      }
    },
    /** A job in a slot: only the latest one goes on. It becomes the current run. @param {string} slot
     * @param {object} body */
    async draft(slot, body) {
      const counts = last('current');
      const id = await submit({ slot, ...body });
      if (id && counts()) set({ current: id });
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
      last('current');
      const run = get().runs[id];
      if (!run || run.recorded) return set({ current: id });
      const { branch: _, ...options } = run.request;
      const { image = null, mask_image: mask = null } = run.inputs;
      set({ current: id, options, image, mask, error: null });
    },
    /** @param {string|null} id the run to compare with */
    compare(id) {
      set({ other: id });
    },

    /** Ask for all jobs of the server anew. What ran in one that was stopped has failed. */
    async refresh() {
      const running = Object.values(get().runs).filter((run) => !run.recorded && !ended(run.state));
      const jobs = await api.get('jobs');
      for (const job of jobs) if (!job.label && (!job.slot || get().runs[job.id])) adopt(job);
      for (const { id } of running.filter((run) => !jobs.some((/** @type {any} */ job) => job.id === run.id))) {
        const error = 'The server was stopped before it ended.';
        set({ runs: { ...get().runs, [id]: { ...get().runs[id], state: 'failed', error } } });
      }
    },
    /** An event of the stream. @param {string} kind @param {any} event */
    async told(kind, event) {
      if (kind === 'reset') {
        inspections.lookAgain();
        return actions.refresh().catch(fail);
      }
      if (event.x0) actions.primeArray(event.job, event.step, 'x0', decoded(event.x0), event.image);
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
    /** The state follows the address. @param {string} [hash] */
    readHash(hash = location.hash) {
      set(fromHash(hash, get()));
    },
  };
  return actions;
}

/** An array as an event has it. @param {{shape: number[], data: string}} given @returns {Values} */
const decoded = ({ shape, data }) => ({ shape, data: new Float32Array(Uint8Array.from(atob(data), (each) => each.charCodeAt(0)).buffer) });

/** The defaults of the options. @param {State} state */
function defaultsOf(state) {
  const options = Object.entries(optionsOf(state));
  return Object.fromEntries(options.map(([name, schema]) => [name, schema.default]));
}

/** Of several things that are asked for under a name, whether one still counts: no later one was asked for. */
function latest() {
  /** @type {Record<string, number>} */
  const turns = {};
  return (/** @type {string} */ name) => {
    const turn = (turns[name] = (turns[name] ?? 0) + 1);
    return () => turns[name] === turn;
  };
}

/** Work of which one part is under way, and of what is asked for meanwhile only the last is done. */
function oneAtATime() {
  let busy = false;
  /** @type {(() => Promise<unknown>)|null} */
  let next = null;
  return {
    /** @param {() => Promise<unknown>} work */
    async ask(work) {
      next = work;
      if (busy) return;
      busy = true;
      while (next) {
        const now = next;
        next = null;
        await now();
      }
      busy = false;
    },
    /** Forget what is asked for and not begun. */
    drop: () => void (next = null),
  };
}
