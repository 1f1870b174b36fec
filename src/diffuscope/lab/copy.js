// "Copy as": the Python, the command and the HTTP request that give what a view shows.

/** @typedef {import('./types.js').State} State */
/** @typedef {import('./types.js').View} View */
/** @typedef {import('./types.js').Snippets} Snippets */

/** @param {State} state @param {View} view @returns {Snippets|null} */
export function snippets(state, view) {
  return view.copy ? view.copy(state) : null;
}
