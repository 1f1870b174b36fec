// Terms of the field, explained on hover and focus where they stand. What they mean is what the glossary says.

import { html } from '../vendor/lit-html.js';

/** A text whose terms can be pointed at, each where it comes first. @param {string} text @param {Actions} actions
 * @param {string} where a name of the text, one on the page */
export function explained(text, actions, where) {
  const terms = actions.json('/lab/terms.json') ?? {};
  const names = Object.keys(terms);
  if (!names.length) return text;
  const parts = text.split(new RegExp(`\\b((?:${names.join('|')})s?)\\b`, 'i'));
  return parts.map((part, k) => {
    const name = k % 2 && names.find((each) => part.toLowerCase().startsWith(each.toLowerCase()));
    const id = `${where}-${k}`;
    return name && parts.indexOf(part) === k
      ? html`<dfn tabindex="0" aria-describedby=${id} @keydown=${leave}>${part}</dfn><span role="tooltip" id=${id}>${terms[name]}</span>`
      : part;
  });
}

/** @param {any} event */
const leave = (event) => event.key === 'Escape' && event.target.blur();
