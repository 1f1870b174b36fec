// Two runs against each other: wiped over one another, their difference, and the first step at which they part.

import { html, nothing } from '../vendor/lit-html.js';
import { differenceSnippets } from '../copy.js';
import { paths } from '../api.js';
import { lines } from '../draw/plot.js';
import { between, mapped, short } from '../draw/colours.js';
import { current, shownStep, stepsOf, titleOf } from '../runs.js';
import { given } from '../parts/experiment.js';
import { empty, figure, pointed } from '../parts/figure.js';
import { stepPreview } from '../parts/preview.js';
import { changes } from '../parts/changes.js';
import '../draw/wipe.js';

/** @type {View} */
export const compare = {
  id: 'compare',
  title: 'Compare',
  group: 'The run',
  about: 'Two runs side by side, at the same step. Drag the line across the picture; below it, where and when they part.',
  needs: ['run', 'live'],
  copy: (state) => differenceSnippets(state, otherOf(state)),
  render(state, actions) {
    const one = /** @type {Run} */ (current(state));
    const others = othersOf(state);
    const other = otherOf(state);
    if (!other) return empty('There is only one run. Change something and generate again.');
    return html`<div class="tools-row">
        <label class="pick"
          >against
          <select .value=${other.id} @change=${given(actions.compare)} aria-label="The run to compare with">
            ${others.toReversed().map(
              (run) => html`<option value=${run.id} ?selected=${run.id === other.id}>
                ${1 + state.order.indexOf(run.id)}. ${titleOf(run)}, seed ${run.seeds[0]}, ${run.total} steps${run.from ? `, branched after step ${run.from.step}` : ''}
              </option>`,
            )}
          </select>
        </label>
        <button @click=${() => swap(state, actions, one, other)}>Swap</button>
      </div>
      ${changes(state, other, one)} ${pictures(state, actions, one, other)} ${parting(state, actions, one, other)}`;
  },
};

/** The runs that the one on show can be compared with. @param {State} state */
const othersOf = (state) =>
  state.order.map((id) => state.runs[id]).filter((run) => run.id !== state.current && run.made[0] && !run.recorded);

/** The one that it is compared with. @param {State} state @returns {Run|undefined} */
const otherOf = (state) => othersOf(state).find((run) => run.id === state.other) ?? othersOf(state).at(-1);

/** @param {State} state @param {Actions} actions @param {Run} one @param {Run} other */
function swap(state, actions, one, other) {
  actions.open(other.id);
  actions.compare(one.id);
}

/** @param {State} state @param {Actions} actions @param {Run} one @param {Run} other */
function pictures(state, actions, one, other) {
  const step = shownStep(state, one) ?? 0;
  const whole = state.selection.step === null && one.made[0] && other.made[0];
  const last = Math.max(0, stepsOf(other) - 1);
  const [a, b] = [actions.array(one.id, step, 'x0'), actions.array(other.id, Math.min(step, last), 'x0')];
  const apart = a && b && isAlike(a, b) ? between(a, b) : undefined;
  const at = whole ? 'the finished pictures' : `the clean estimates after step ${step + 1}`;
  return html`<div class="cards compare">
    <figure class="figure">
      <lab-wipe
        .label=${`Wipe between two runs: ${at}. Arrow keys move the line.`}
        .urls=${whole ? [paths.image(other.id), paths.image(one.id)] : null}
        .pictures=${whole ? null : [stepPreview(actions, other, Math.min(step, last)), stepPreview(actions, one, step)]}
      ></lab-wipe>
      <figcaption><span><b>left</b> ${titleOf(other)}</span> <span><b>right</b> ${titleOf(one)}</span></figcaption>
    </figure>
    ${a && b && !apart ? nothing : figure({
      picture: apart && mapped(apart.sizes, apart.width, apart.height, 'heat', 0, apart.most || 1),
      sentence: `Difference of the clean estimates after step ${step + 1}, at most ${short(apart?.most ?? 0)}`,
      caption: html`<b>difference</b> of the estimates <span class="num">at most ${short(apart?.most ?? 0, 2)}</span>`,
      ...pointed(state, actions),
      read: (x, y) => (apart ? short(apart.sizes[y * apart.width + x]) : ''),
    })}
  </div>`;
}

/** @param {Values} a @param {Values} b */
const isAlike = (a, b) => String(a.shape) === String(b.shape);

/** The first step at which the estimates differ in any bit, and how far they go apart. @param {State} state
 * @param {Actions} actions @param {Run} one @param {Run} other */
function parting(state, actions, one, other) {
  const count = Math.min(stepsOf(one), stepsOf(other));
  const pairs = Array.from({ length: count }, (_, k) => [actions.array(one.id, k, 'x0'), actions.array(other.id, k, 'x0')]);
  const values = pairs.map(([a, b]) => (a && b && isAlike(a, b) ? between(a, b).mean : null));
  const first = values.findIndex((value) => value !== null && value > 0);
  const together = first === 1 ? 'one step' : `${first} steps`;
  let said = `They are the same to the last bit for ${together}, and part in step ${first + 1}.`;
  const differ = pairs.some(([a, b]) => a && b && !isAlike(a, b));
  if (differ) said = 'They are of different sizes: only the pictures can be compared.';
  else if (pairs.some((pair) => pair.includes(null))) said = 'Not every step of both runs is kept.';
  else if (values.includes(null)) said = 'On its way.';
  else if (first < 0) said = 'They are the same in every step, to the last bit.';
  else if (first === 0) said = 'They part in the first step.';
  return html`<h2 class="part">Where they part</h2>
    <p class="muted" role="status">${said}</p>
    ${
      count && !differ
        ? lines({
            lines: [{ name: 'difference', values }],
            sentence: `Root mean square of the difference of the two runs' clean estimates over ${count} steps. ${said}`,
            step: shownStep(state, one),
            onStep: (step) => actions.select({ step }),
            zero: true,
          })
        : nothing
    }`;
}
