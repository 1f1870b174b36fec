// The state of the page: one plain object, replaced field by field; whoever subscribes is told once a frame.

/** @returns {State} */
export function initial() {
  return {
    about: null,
    options: {},
    image: null,
    mask: null,
    view: 'generate',
    theme: 'auto',
    selection: { word: null, position: null, step: null, block: null, head: null },
    runs: {},
    order: [],
    current: null,
    other: null,
    tour: null,
    live: false,
    offline: false,
    error: null,
    local: {},
  };
}

/**
 * @template {object} T
 * @param {T} state
 * @param {(run: () => void) => void} later when subscribers are told: at the next frame in a browser
 */
export function createStore(state, later = (run) => requestAnimationFrame(run)) {
  /** @type {((state: T) => void)[]} */
  const subscribers = [];
  let waiting = false;

  function flush() {
    if (!waiting) return;
    waiting = false;
    for (const tell of subscribers) tell(state);
  }

  function touch() {
    if (waiting) return;
    waiting = true;
    later(flush);
  }

  return {
    /** The state as it is now. */
    get: () => state,
    /** Replace some fields. @param {Partial<T>} change */
    set(change) {
      state = { ...state, ...change };
      touch();
    },
    /** Render again: something outside the state, such as an array, has come. */
    touch,
    /** Tell the subscribers now what they would be told at the next frame. */
    flush,
    /** @param {(state: T) => void} tell */
    subscribe(tell) {
      subscribers.push(tell);
    },
  };
}
