// The state in the address: the view, the request and the selection, so that a link opens what one sees.

const NUMBERS = /** @type {const} */ (['word', 'step', 'head']);

/** @param {State} state @returns {string} the address's part after '#' */
export function toHash(state) {
  const parts = new URLSearchParams({ view: state.view });
  if (Object.keys(state.options).length) parts.set('request', JSON.stringify(state.options));
  for (const name of NUMBERS) if (state.selection[name] !== null) parts.set(name, String(state.selection[name]));
  if (state.selection.position) parts.set('position', state.selection.position.join(','));
  if (state.selection.block) parts.set('block', state.selection.block);
  if (state.current && !state.runs[state.current]?.recorded) parts.set('run', state.current);
  if (state.other) parts.set('other', state.other);
  if (state.tour) parts.set('tour', `${state.tour[0]}.${state.tour[1] + 1}`);
  return String(parts);
}

/** @param {string} hash @param {State} state @returns {Partial<State>} what the address says; the rest is as it is */
export function fromHash(hash, state) {
  const parts = new URLSearchParams(hash.replace(/^#/, ''));
  /** @type {Partial<State>} */
  const change = {};
  const view = parts.get('view');
  if (view) change.view = view;
  const options = parsed(parts.get('request'));
  if (options) change.options = options;
  const selection = { ...state.selection };
  for (const name of NUMBERS) selection[name] = whole(parts.get(name));
  const position = (parts.get('position') ?? '').split(',').map(whole);
  selection.position = position.length === 2 && position[0] !== null && position[1] !== null ? [position[0], position[1]] : null;
  selection.block = parts.get('block');
  change.selection = selection;
  if (parts.get('run')) change.current = parts.get('run');
  const tour = /^(\d\d)\.(\d{1,2})$/.exec(parts.get('tour') ?? '');
  change.tour = tour ? [tour[1], Number(tour[2]) - 1] : null;
  if (parts.get('other')) change.other = parts.get('other');
  return change;
}

/** @param {string|null} text @returns {number|null} */
function whole(text) {
  return text !== null && /^\d{1,6}$/.test(text) ? Number(text) : null;
}

/** @param {string|null} text @returns {Record<string, any>|null} */
function parsed(text) {
  try {
    const value = JSON.parse(text ?? '');
    return value && typeof value === 'object' && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
