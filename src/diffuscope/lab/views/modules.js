// The map of the modules: what the networks are made of, with shapes, the spread of their numbers, and their source.

import { html, nothing, svg } from '../vendor/lit-html.js';
import { spreadSnippets } from '../copy.js';
import { short } from '../draw/colours.js';

/** @typedef {{name: string, kind: string, parameters: number, weights: Record<string, number[]>,
 *   outputs: Record<string, number[]>, source: boolean}} Module */

/** @type {View} */
export const modules = {
  id: 'modules',
  title: 'Modules',
  group: 'Inside',
  about: 'What the networks are made of. Open a module to see its shapes, how its numbers are spread, and its source.',
  needs: ['model'],
  render(state, actions) {
    /** @type {Module[]|undefined} */
    const all = actions.json('modules');
    if (!all) return html`<p class="begin" role="status">reading …</p>`;
    const chosen = all.find((each) => each.name === nameOf(state)) ?? all[0];
    return html`<div class="browser">
      <nav aria-label="Modules">${tree(all, chosen.name, actions)}</nav>
      <section class="column">${details(all, chosen, state, actions)}</section>
    </div>`;
  },
  copy: (state) => spreadSnippets(state, state.local.tensor ?? 'unet.conv_in.weight'),
};

/** @param {State} state */
const nameOf = (state) => state.local.module ?? state.selection.block ?? 'unet';

/** The modules beside the way to the chosen one: what is closed stays short. @param {Module[]} all
 * @param {string} chosen @param {Actions} actions */
function tree(all, chosen, actions) {
  const most = Math.max(...all.map((each) => each.parameters));
  const open = (/** @type {string} */ name) => chosen === name || chosen.startsWith(`${name}.`);
  const parent = (/** @type {string} */ name) => name.slice(0, Math.max(0, name.lastIndexOf('.')));
  const shown = all.filter(({ name }) => !parent(name) || open(parent(name)) || (isList(all, parent(name)) && open(parent(parent(name)))));
  return html`<ul class="module-tree">
    ${shown
      .filter((each) => each.kind !== 'ModuleList')
      .map(
        (each) => html`<li>
          <button
            class="module depth-${Math.min(6, depthOf(all, each.name))}"
            aria-current=${each.name === chosen ? 'true' : nothing}
            @click=${() => actions.keep('module', each.name)}
          >
            <span>${labelOf(all, each.name)}</span>
            <small>${count(each.parameters)}</small>
            <svg viewBox="0 0 100 3" preserveAspectRatio="none" aria-hidden="true">
              <rect width=${(100 * Math.sqrt(each.parameters / most)).toFixed(1)} height="3"></rect>
            </svg>
          </button>
        </li>`,
      )}
  </ul>`;
}

/** @param {Module[]} all @param {string} name */
const isList = (all, name) => all.find((each) => each.name === name)?.kind === 'ModuleList';

/** How deep a module stands, lists not counted. @param {Module[]} all @param {string} name */
function depthOf(all, name) {
  const parts = name.split('.');
  let depth = 0;
  for (let k = 1; k < parts.length; k++) if (!isList(all, parts.slice(0, k).join('.'))) depth += 1;
  return depth;
}

/** The last part of a name, with the list that it stands in. @param {Module[]} all @param {string} name */
function labelOf(all, name) {
  const parts = name.split('.');
  const last = /** @type {string} */ (parts.pop());
  return isList(all, parts.join('.')) ? `${parts.pop()}.${last}` : last;
}

/** @param {number} number */
const count = (number) =>
  number >= 1e6 ? `${(number / 1e6).toFixed(1)} M` : number >= 1e3 ? `${(number / 1e3).toFixed(1)} k` : String(number);

/** @param {Module[]} all @param {Module} module @param {State} state @param {Actions} actions */
function details(all, module, state, actions) {
  const weights = Object.entries(module.weights);
  const outputs = Object.entries(module.outputs);
  const names = weights.map(([key]) => `${module.name}.${key}`);
  const tensor = names.includes(state.local.tensor) ? state.local.tensor : names[0];
  return html`<header>
      <h2 class="path">${module.name}</h2>
      <p class="remark">${module.kind} · ${module.parameters.toLocaleString('en')} numbers</p>
    </header>
    ${
      weights.length
        ? html`<table>
            <caption class="sr">The tensors of ${module.name}</caption>
            <thead><tr><th scope="col">tensor</th><th scope="col">shape</th></tr></thead>
            <tbody>
              ${weights.map(
                ([key, shape]) => html`<tr>
                  <th scope="row">
                    <button
                      class="quiet"
                      aria-pressed=${`${module.name}.${key}` === tensor}
                      @click=${() => actions.keep('tensor', `${module.name}.${key}`)}
                    >
                      ${key}
                    </button>
                  </th>
                  <td class="num">${shape.join(' × ')}</td>
                </tr>`,
              )}
            </tbody>
          </table>`
        : nothing
    }
    ${tensor ? spread(actions, tensor) : nothing}
    ${
      outputs.length
        ? html`<table>
            <caption class="sr">What a tap can read in ${module.name}</caption>
            <thead><tr><th scope="col">activation</th><th scope="col">shape of one row, for 8 × 8 latents</th></tr></thead>
            <tbody>
              ${outputs.map(
                ([key, shape]) => html`<tr>
                  <th scope="row"><code>${key === module.name ? 'output' : key.slice(module.name.length + 1)}</code></th>
                  <td class="num">${shape.join(' × ')}</td>
                </tr>`,
              )}
            </tbody>
          </table>`
        : nothing
    }
    ${module.source ? sourceOf(actions, module) : nothing}`;
}

/** @param {Actions} actions @param {string} tensor */
function spread(actions, tensor) {
  const found = actions.json(`modules/${tensor}/histogram`);
  if (!found) return html`<i class="waiting spread"></i>`;
  const high = Math.max(...found.counts);
  const width = 100 / found.counts.length;
  const said = `${tensor}: from ${short(found.low)} to ${short(found.high)}, mean ${short(found.mean)}, standard deviation ${short(found.std)}`;
  return html`<figure class="figure">
    <svg class="spread" viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label=${said}>
      ${found.counts.map((/** @type {number} */ n, /** @type {number} */ k) => {
        const height = (30 * n) / high;
        return svg`<rect x=${k * width} y=${30 - height} width=${width * 0.86} height=${height}></rect>`;
      })}
    </svg>
    <figcaption class="ends">
      <span class="num">${short(found.low)}</span>
      <span>mean ${short(found.mean)} · deviation ${short(found.std)}${found.zeros ? ` · ${found.zeros.toLocaleString('en')} zeros` : ''}</span>
      <span class="num">${short(found.high)}</span>
    </figcaption>
  </figure>`;
}

/** @param {Actions} actions @param {Module} module */
function sourceOf(actions, module) {
  const found = actions.json(`modules/${module.name}/source`);
  if (!found) return nothing;
  return html`<details class="code">
    <summary>Source of ${found.kind} <small>${found.file}, line ${found.line}</small></summary>
    <pre tabindex="0" aria-label="Source of ${found.kind}"><code>${found.text}</code></pre>
  </details>`;
}
