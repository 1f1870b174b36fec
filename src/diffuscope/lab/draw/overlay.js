// A map over a picture: the picture dimmed to grey, and the map's colours where it is large.

import { MAPS } from './colours.js';
import { resized } from '../attention.js';

const SIDE = 256; // pixels of an overlay, at most: more are not seen

/** The last picture of each map, so that what has not changed is not drawn again.
 * @type {WeakMap<Field, {picture: Picture|null|undefined, high: number, made: Picture}>} */
const kept = new WeakMap();

/** @param {Field} field @param {Picture|null|undefined} picture @param {number} high the value of the last colour
 * @returns {Picture} */
export function overlay(field, picture, high) {
  const known = kept.get(field);
  if (known && known.picture === picture && known.high === high) return known.made;
  const made = drawn(field, picture, high);
  kept.set(field, { picture, high, made });
  return made;
}

/** @param {Field} field @param {Picture|null|undefined} picture @param {number} high @returns {Picture} */
function drawn(field, picture, high) {
  const table = MAPS.heat;
  const share = SIDE / Math.max(picture?.width ?? SIDE, picture?.height ?? SIDE);
  const width = Math.round((picture?.width ?? field.width) * (picture ? Math.min(1, share) : 1));
  const height = Math.round((picture?.height ?? field.height) * (picture ? Math.min(1, share) : 1));
  const { data } = resized(field, width, height);
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const i = y * width + x;
      const value = Math.max(0, Math.min(1, data[i] / (high || 1)));
      const colour = Math.round(value * 255) * 3;
      let grey = 0;
      if (picture) {
        const at =
          (Math.floor(((y + 0.5) * picture.height) / height) * picture.width +
            Math.floor(((x + 0.5) * picture.width) / width)) *
          4;
        grey = 0.3 * picture.rgba[at] + 0.59 * picture.rgba[at + 1] + 0.11 * picture.rgba[at + 2];
      }
      const alpha = picture ? 0.3 + 0.62 * value : 1;
      for (let c = 0; c < 3; c++) rgba[i * 4 + c] = table[colour + c] * alpha + grey * 0.75 * (1 - alpha);
      rgba[i * 4 + 3] = 255;
    }
  return { width, height, rgba };
}

/** A field by itself, cell by cell. @param {Field} field @param {number} high @returns {Picture} */
export const heat = (field, high) => overlay(field, null, high);
