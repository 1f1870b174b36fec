// The beginning: the session, what the server says of itself, the stream of events, and rendering after each change.

import * as api from './api.js';
import { createActions } from './actions.js';
import { opening } from './opening.js';
import { shell } from './parts/shell.js';
import { ended } from './runs.js';
import { createStore, initial } from './store.js';
import { render } from './vendor/lit-html.js';

const store = createStore(initial());
const actions = createActions(store);
const root = /** @type {HTMLElement} */ (document.getElementById('app'));

/** The state that was rendered last. @type {any} */
let shown = { selection: {} };
const reveal = (/** @type {string} */ selector) =>
  document.querySelector(selector)?.scrollIntoView({ block: 'nearest', inline: 'nearest' });

store.subscribe((state) => {
  if (state.theme !== keptTheme()) localStorage.setItem('theme', state.theme);
  document.documentElement.dataset.theme = state.theme;
  const focused = document.activeElement;
  render(shell(state, actions), root);
  if (focused && !focused.isConnected) document.getElementById('main')?.focus({ preventScroll: true });
  actions.writeHash();
  if (state.view !== shown.view) {
    document.getElementById('main')?.scrollTo(0, 0);
    reveal('nav.views [aria-current]');
  }
  if (state.image !== shown.image) reveal('.painted');
  if (state.current !== shown.current && !state.live) reveal('.stage > :first-child');
  if (state.selection.step !== shown.selection.step) reveal('.strip .on');
  shown = state;
});

/** The token in the address, which is taken out of it. @returns {string|null} */
function takeToken() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const token = parts.get('token');
  if (token === null) return null;
  parts.delete('token');
  history.replaceState(null, '', `#${parts}`);
  return token;
}

/** What the server says of itself, once it has seen the token. @param {string|null} token @returns {Promise<About>} */
async function signIn(token) {
  if (token !== null) await api.post('/lab/session', { token });
  return api.get('about');
}

/** @returns {'auto'|'light'|'dark'} */
function keptTheme() {
  const kept = localStorage.getItem('theme');
  return kept === 'light' || kept === 'dark' ? kept : 'auto';
}

async function start() {
  const token = takeToken();
  root.replaceChildren();
  actions.readHash();
  store.set({ theme: keptTheme() });
  try {
    const [about] = await Promise.all([signIn(token), opening(store, actions)]);
    store.set({ about });
    let said = ''; // once, however often the browser tries to connect: one may have closed it
    api.follow(actions.told, (offline) => {
      if (offline !== store.get().offline) store.set({ offline, error: null });
      if (!offline) said = '';
      else
        api.get('about').catch((error) => {
          const problem = explained(error);
          if (problem.message !== said) actions.fail(problem);
          said = problem.message;
        });
    });
    await actions.refresh();
    await begin();
  } catch (error) {
    actions.fail(explained(error));
  }
}

/** @param {any} error */
function explained(error) {
  const message = 'This browser has not shown the token of this start. Open the address that diffuscope lab printed.';
  return error.status === 401 ? { message } : error;
}

/** The live run behind the recorded picture: the last one, such as that with which the server began; or that of the
 * address, where one costs a moment. */
async function begin() {
  const { about, order, options, current, runs } = store.get();
  if (current && runs[current] && !runs[current].recorded) return;
  const lost = ['cancelled', 'failed']; // these have no picture to open with
  const last = order.filter((id) => !runs[id].recorded && !lost.includes(runs[id].state)).at(-1);
  if (last && !Object.keys(options).length) return actions.open(last);
  const recorded = JSON.stringify(runs.opening?.request);
  if (!options.prompt) actions.setOptions(runs.opening?.request);
  if (last && JSON.stringify(runs[last].request) === recorded) {
    if (JSON.stringify(store.get().options) === recorded) return actions.open(last);
    if (!ended(runs[last].state)) await actions.cancel(last); // nobody has asked for it
  }
  if (about?.quick) await actions.generate();
}

/** @param {any} event */
function leave({ type, key, target }) {
  const menu = /** @type {HTMLDetailsElement|null} */ (document.querySelector('.copy[open]'));
  if (!menu || (type === 'keydown' ? key !== 'Escape' : menu.contains(target))) return;
  menu.open = false;
  if (key) menu.querySelector('summary')?.focus();
}

// What a hand does next meets handlers that know what it did before, however late the next frame is.
for (const kind of ['click', 'input', 'change', 'submit', 'keydown']) window.addEventListener(kind, store.flush);
// An open menu closes when a hand or the focus leaves it, and by Escape.
for (const kind of ['pointerdown', 'focusin', 'keydown']) window.addEventListener(kind, leave);
// A picture may be dropped anywhere: the browser would leave the page for it.
const hovers = (/** @type {boolean} */ is) => document.documentElement.classList.toggle('hovers', is);
window.addEventListener('dragover', (event) => {
  event.preventDefault();
  hovers(event.dataTransfer?.types.includes('Files') ?? false);
});
window.addEventListener('dragleave', ({ relatedTarget }) => relatedTarget || hovers(false));
window.addEventListener('drop', (event) => {
  event.preventDefault();
  hovers(false);
  const file = event.dataTransfer?.files[0];
  if (file) actions.restore(file, true);
});
// That of the event: a rendering in between has written the older state into the address again.
window.addEventListener('hashchange', ({ newURL }) => {
  const { hash } = new URL(newURL);
  if (!new URLSearchParams(hash.slice(1)).has('token')) return actions.readHash(hash);
  history.replaceState(null, '', newURL); // of a server that was started anew
  location.reload();
});
start();
