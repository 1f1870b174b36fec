// What stands around every view: the prompt above, the views beside, the timeline below.

import { html, nothing } from '../vendor/lit-html.js';
import { imageSnippets } from '../copy.js';
import { unmet } from '../needs.js';
import { current, ended, stepsOf, titleOf } from '../runs.js';
import { VIEWS, viewOf } from '../views.js';
import { copyMenu } from './copy-menu.js';
import { given, submits } from './experiment.js';
import { coded, empty } from './figure.js';
import { explained } from './terms.js';
import { timeline } from './timeline.js';
import { tourCard } from './tour.js';

/** @param {State} state @param {Actions} actions */
export function shell(state, actions) {
  const view = viewOf(state.view);
  const missing = unmet(view.needs, state);
  const copied = missing ? null : view.copy?.(state);
  const run = view.copy === imageSnippets || view.needs.includes('run') ? current(state) : null;
  return html`<a class="skip" href="#main" @click=${skip}>To the view</a>
    <header class="bar">${bar(state, actions)}</header>
    <nav class="views ${state.local.menu ? 'open' : ''}" aria-label="Views" @keydown=${leaves(actions)}>${navigation(state, actions)}</nav>
    <main id="main" tabindex="-1" data-view=${view.id}>
      ${state.error ? problem(state, actions) : nothing} ${tourCard(state, actions)}
      <header class="head">
        <div>
          <h1>${view.title}</h1>
          <p>${explained(view.about, actions, 'about')}</p>
        </div>
        ${copied ? copyMenu(copied, run ? `Of the run on show: “${titleOf(run)}”, seed ${run.seeds[0]}.` : '', state, actions) : nothing}
      </header>
      ${missing ? empty(missing) : view.render(state, actions)}
    </main>
    <footer class="time">${timeline(state, actions)}</footer>`;
}

/** @param {Event} event */
function skip(event) {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

/** @param {State} state @param {Actions} actions */
function bar(state, actions) {
  const run = current(state);
  const busy = run && !run.recorded && !ended(run.state);
  const theme = { auto: 'dark', dark: 'light', light: 'auto' }[state.theme];
  return html`<span class="mark"><img src="icon.svg" alt="" width="22" height="22" /><b>diffuscope</b></span>
    <form @submit=${submits(actions.generate)}>
      <label class="sr" for="prompt">Prompt</label>
      <input
        id="prompt"
        type="text"
        autocomplete="off"
        spellcheck="false"
        placeholder="a red fox"
        .value=${promptOf(state)}
        @input=${given((prompt) => actions.setOptions({ prompt }))}
      />
      ${
        busy
          ? html`<button type="button" class="stop" @click=${() => actions.cancel(run.id)}>
              Stop <small>${stepsOf(run)}/${run.total}</small>
            </button>`
          : html`<button type="submit" class="primary">Generate</button>`
      }
    </form>
    <span class="model ${state.offline ? 'bad' : ''}" title="the model that is served">${state.offline ? 'no connection' : (state.about?.model ?? '…')}</span>
    <button
      class="quiet theme"
      @click=${() => actions.set({ theme: /** @type {any} */ (theme) })}
      aria-label="Colours: ${state.theme}. Change to ${theme}"
      title="Colours: ${state.theme}"
    >
      ${{ auto: '◐', light: '○', dark: '●' }[state.theme]}
    </button>`;
}

/** @param {State} state */
function promptOf(state) {
  const { prompt } = state.options;
  return Array.isArray(prompt) ? prompt.join(' | ') : (prompt ?? '');
}

/** @param {State} state @param {Actions} actions */
function navigation(state, actions) {
  const groups = [...new Set(VIEWS.map((view) => view.group))];
  const shown = viewOf(state.view);
  const open = Boolean(state.local.menu);
  return html`<button type="button" class="menu" aria-expanded=${open} @click=${() => actions.keep('menu', !open)}>
      <span>${shown.group} ›</span> <b>${shown.title}</b>
    </button>
    ${groups.map(
    (group) => html`<section>
      <h2>${group}</h2>
      ${VIEWS.filter((view) => view.group === group).map(
        (view) => html`<a
          href="./#view=${view.id}"
          aria-current=${view === shown ? 'page' : nothing}
          @click=${(/** @type {Event} */ event) => {
            if (open) skip(event);
            event.preventDefault();
            actions.keep('menu', false);
            actions.go(view.id);
          }}
          >${view.title}</a
        >`,
      )}
    </section>`,
    )}`;
}

/** Escape closes the menu of a narrow page. @param {Actions} actions */
const leaves = (actions) => (/** @type {KeyboardEvent} */ event) => {
  if (event.key === 'Escape') actions.keep('menu', false);
};

/** @param {State} state @param {Actions} actions */
function problem(state, actions) {
  return html`<div class="problem" role="alert">
    <p>${coded(state.error?.message ?? '')}</p>
    <button class="quiet" @click=${() => actions.set({ error: null })} aria-label="Dismiss">✕</button>
  </div>`;
}
