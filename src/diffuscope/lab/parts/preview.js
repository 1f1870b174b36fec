// Latents of a run as pictures, by the linear map to colours: what the timeline and most views draw. Each is made once.

import { coloured } from '../draw/colours.js';

/** @type {WeakMap<Values, Picture>} */
const made = new WeakMap();

/** @param {Actions} actions @returns {{matrix: number[][], offset: number[]}|undefined} */
export const rgbOf = (actions) => actions.json('latent-rgb');

/** @param {Actions} actions @param {Values|undefined|null} values @returns {Picture|undefined} */
export function preview(actions, values) {
  const rgb = rgbOf(actions);
  if (!values || !rgb) return undefined;
  let picture = made.get(values);
  if (!picture) made.set(values, (picture = coloured(values, rgb)));
  return picture;
}

/** A step's latents as a picture. @param {Actions} actions @param {Run} run @param {number} step @param {string} [kind]
 * @param {number} [image] */
export const stepPreview = (actions, run, step, kind = 'x0', image = 0) =>
  preview(actions, actions.array(run.id, step, kind, image));
