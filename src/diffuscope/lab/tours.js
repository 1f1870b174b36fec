// Tours: the chapters of the deep dive, walked on the reader's own prompt. A tour is a list of stops; each names a view,
// says what to look at, and sets the selection. Where one stands is in the address.

import { gridOf, promptOf } from './runs.js';

/** @typedef {{id: string, page: string, title: string, about: string, stops: number}} Tour */
/** @typedef {{view: string, head: string, text: string, set?: {selection?: any, local?: Record<string, any>}}} Stop */

/** All tours. @param {Actions} actions @returns {Tour[]} */
export const toursOf = (actions) => actions.json('/lab/tours/index.json') ?? [];

/** The stops of a tour. @param {Actions} actions @param {string} id @returns {Stop[]} */
export const stopsOf = (actions, id) => (/^\d\d$/.test(id) ? (actions.json(pathOf(id))?.stops ?? []) : []);

/** @param {string} id */
const pathOf = (id) => `/lab/tours/${id}.json`;

/** Go to a stop, once it is known: its view, and what it selects. @param {Actions} actions @param {string} id
 * @param {number} stop */
export async function goTo(actions, id, stop) {
  const found = (await actions.answered(pathOf(id)))?.stops[stop];
  const state = actions.state();
  /** @type {Partial<State>} */
  const change = { tour: [id, stop], error: null };
  if (found) {
    const set = JSON.parse(filled(JSON.stringify(found.set ?? {}), state, true));
    change.view = found.view;
    change.selection = { ...state.selection, ...set.selection };
    change.local = { ...state.local, ...set.local };
  }
  actions.set(change);
}

/** A text with what the reader has: {prompt}, {word}, {cells}. @param {string} text @param {State} state
 * @param {boolean} [json] within a JSON string */
export function filled(text, state, json = false) {
  const own = promptOf(state);
  const [width, height] = gridOf(state);
  /** @type {Record<string, string>} */
  const values = { prompt: own, word: lastWord(own), cells: `${width} × ${height}` };
  return text.replace(/\{(prompt|word|cells)\}/g, (_, name) =>
    json ? JSON.stringify(values[name]).slice(1, -1) : values[name],
  );
}

/** The noun, as a rule: the last word. @param {string} prompt */
const lastWord = (prompt) => prompt.toLowerCase().match(/[\p{L}\p{N}]+/gu)?.at(-1) ?? '';
