// What is different between the requests of two runs, option by option.

import { html, nothing } from '../vendor/lit-html.js';
import { words } from './field.js';

/** @param {State} state @param {Run} before @param {Run} after @returns {[string, string, string][]} name, before, after */
export function changed(state, before, after) {
  const preset = /** @type {Record<string, any>} */ (state.about?.preset ?? {});
  const names = new Set([...Object.keys(before.request), ...Object.keys(after.request)]);
  /** @type {[string, string, string][]} */
  const found = [];
  for (const name of names) {
    if (name === 'branch') continue;
    const [a, b] = [before, after].map((run) => (name === 'seed' ? String(run.seeds) : valueOf(run.request[name] ?? preset[name])));
    if (a !== b) found.push([name, a, b]);
  }
  return found;
}

/** A value of an option in a line. @param {any} value */
export function valueOf(value) {
  if (value === null || value === undefined || value === '') return '–';
  if (typeof value === 'object') {
    const text = JSON.stringify(value);
    return text === '{}' ? '–' : text.length > 60 ? `${text.slice(0, 57)}…` : text;
  }
  return String(value);
}

/** @param {State} state @param {Run} before @param {Run} after */
export function changes(state, before, after) {
  const found = changed(state, before, after);
  if (!found.length) return after.request.branch?.x ? html`<p class="muted">The latents were painted over.</p>` : nothing;
  return html`<dl class="changes">
    ${found.map(
      ([name, a, b]) => html`<div><dt>${words(name)}</dt><dd><del>${a}</del> → <ins>${b}</ins></dd></div>`,
    )}
  </dl>`;
}
