// All views, in the order of the navigation. To add one: write views/NAME.js, and name it here.

import { generate } from './views/generate.js';
import { steps } from './views/steps.js';

/** @typedef {import('./types.js').View} View */

/** @type {View[]} */
export const VIEWS = [generate, steps];

/** @param {string} id @returns {View} */
export const viewOf = (id) => VIEWS.find((view) => view.id === id) ?? VIEWS[0];
