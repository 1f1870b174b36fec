// The U-Net as a picture of its blocks: down on the left, up on the right, each transformer block with switches.

import { html } from '../vendor/lit-html.js';
import { blockLabel } from '../attention.js';

/** @typedef {'self_attn'|'cross_attn'|'ff'} Part */

/** @type {[Part, string, string][]} */
export const PARTS = [
  ['self_attn', 'self', 'self-attention'],
  ['cross_attn', 'text', 'attention to the text'],
  ['ff', 'feed', 'feed-forward'],
];

/** The transformer blocks of a model, from its taps. @param {{name: string}[]} modules @returns {string[]} */
export const blocksOfModules = (modules) =>
  modules.map((each) => each.name).filter((name) => /^unet\..*\.block\.\d+$/.test(name));

/**
 * @param {string[]} blocks @param {(name: string) => boolean} isOff whether a part of a block is switched off
 * @param {(name: string) => void} toggle
 */
export function unet(blocks, isOff, toggle) {
  const side = (/** @type {string} */ stage) => blocks.filter((block) => block.startsWith(`unet.${stage}`));
  const one = (/** @type {string} */ block) => html`<li>
    <span>${blockLabel(block)}</span>
    ${PARTS.map(([part, title, whole]) => {
      const name = `${block}.${part}`;
      return html`<button
        class="toggle"
        role="switch"
        aria-checked=${isOff(name) ? 'false' : 'true'}
        aria-label="${blockLabel(block)}: ${whole}"
        @click=${() => toggle(name)}
      >
        ${title}
      </button>`;
    })}
  </li>`;
  return html`<div class="unet" role="group" aria-label="Parts of the U-Net">
    <ol class="down" aria-label="Down">${side('down').map(one)}</ol>
    <ol class="middle" aria-label="Middle">${side('mid').map(one)}</ol>
    <ol class="up" aria-label="Up">${side('up').map(one)}</ol>
  </div>`;
}
