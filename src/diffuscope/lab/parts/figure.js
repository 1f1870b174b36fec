// A figure: a raster with its caption. Its sentence is what a screen reader says, and what stands below it.

import { html, nothing } from '../vendor/lit-html.js';
import '../draw/raster.js';

/**
 * @param {{picture: Picture|null|undefined, sentence: string, caption?: unknown, position?: [number, number]|null,
 *   onPosition?: (position: [number, number]|null) => void,
 *   onHover?: (position: [number, number]|null) => void, read?: (x: number, y: number) => string,
 *   cells?: [number, number]|null, size?: 'small'|'large'|'', smooth?: boolean}} what
 */
export function figure({ picture, sentence, caption, position = null, onPosition, onHover, read, cells, size = '', smooth }) {
  return html`<figure class="figure ${size}">
    ${
      picture
        ? html`<lab-raster
            class=${smooth ? 'smooth' : ''}
            .selects=${Boolean(onPosition)}
            .cells=${cells ?? null}
            .read=${read ?? null}
            .picture=${picture}
            .position=${position}
            .label=${sentence}
            @position=${(/** @type {CustomEvent} */ event) => onPosition?.(event.detail)}
            @hover=${(/** @type {CustomEvent} */ event) => onHover?.(event.detail)}
          ></lab-raster>`
        : html`<div class="waiting" role="img" aria-label="${sentence}: on its way"></div>`
    }
    ${caption ? html`<figcaption>${caption}</figcaption>` : nothing}
  </figure>`;
}

/** What follows the selected position. @param {State} state @param {Actions} actions */
export const pointed = (state, actions) => ({
  position: state.selection.position,
  onPosition: (/** @type {[number, number]|null} */ position) => actions.select({ position }),
});

/** A picture with its name below, and what else there is to say. @param {Picture|null|undefined} picture @param {string} name
 * @param {string} sentence @param {unknown} [more] */
export const named = (picture, name, sentence, more = '') =>
  figure({ picture, sentence, caption: html`<span><b>${name}</b>${more}</span>`, smooth: true });

/** A finished image of the server, or the sharpest that there is. @param {string} url @param {string} sentence
 * @param {unknown} [caption] @param {'before'|''} [kind] of another run, until this one has something to show */
export const photo = (url, sentence, caption, kind = '') =>
  html`<figure class="figure ${kind}">
    <img src=${url} alt=${sentence} draggable="true" />
    ${caption ? html`<figcaption>${caption}</figcaption>` : nothing}
  </figure>`;

/** A sentence with what is between backquotes as code. @param {string} sentence */
export const coded = (sentence) => sentence.split('`').map((part, k) => (k % 2 ? html`<code>${part}</code>` : part));

/** A place for what is not there: what it is, and what to do. @param {string} sentence @param {unknown} [action] */
export const empty = (sentence, action) => html`<div class="empty"><p>${coded(sentence)}</p>${action ?? nothing}</div>`;
