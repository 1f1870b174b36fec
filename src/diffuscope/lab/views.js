// All views, in the order of the navigation. To add one: write views/NAME.js, and name it here.

import { ablation } from './views/ablation.js';
import { attention } from './views/attention.js';
import { branch } from './views/branch.js';
import { colour } from './views/colour.js';
import { compare } from './views/compare.js';
import { edit } from './views/edit.js';
import { generate } from './views/generate.js';
import { grid } from './views/grid.js';
import { guidance } from './views/guidance.js';
import { layers } from './views/layers.js';
import { mix } from './views/mix.js';
import { modules } from './views/modules.js';
import { runs } from './views/runs.js';
import { schedule } from './views/schedule.js';
import { selfAttention } from './views/self-attention.js';
import { steps } from './views/steps.js';
import { tokens } from './views/tokens.js';
import { tours } from './views/tours.js';

/** @type {View[]} */
export const VIEWS = [
  ...[generate, grid, runs],
  ...[steps, schedule, guidance, compare],
  ...[tokens, layers, mix],
  ...[attention, selfAttention, modules],
  ...[branch, ablation, edit, colour],
  tours,
];

/** @param {string} id @returns {View} */
export const viewOf = (id) => VIEWS.find((view) => view.id === id) ?? VIEWS[0];
