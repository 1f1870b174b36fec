// The card of a tour: what to look at here, and the way to the next stop. It stands above every view.

import { html, nothing } from '../vendor/lit-html.js';
import { filled, goTo, stopsOf, toursOf } from '../tours.js';

/** @param {State} state @param {Actions} actions */
export function tourCard(state, actions) {
  if (!state.tour || !state.about) return nothing;
  const [id, at] = state.tour;
  const tour = toursOf(actions).find((each) => each.id === id);
  const stops = stopsOf(actions, id);
  const stop = stops[at];
  if (!tour || !stop) return nothing;
  const away = stop.view !== state.view;
  return html`<aside class="tour-card" aria-label="Tour: ${tour.title}">
    <p class="tour-at">
      <button class="quiet" @click=${() => actions.go('tours')}>${Number(id)}. ${tour.title}</button>
      <span class="num">${at + 1} / ${stops.length}</span>
      <button class="quiet close" aria-label="Leave the tour" @click=${() => actions.set({ tour: null })}>✕</button>
    </p>
    <h2>${stop.head}</h2>
    <p aria-live="polite">${filled(stop.text, state)}</p>
    <p class="ways">
      <button ?disabled=${at === 0} @click=${() => goTo(actions, id, at - 1)}>Back</button>
      ${away ? html`<button @click=${() => goTo(actions, id, at)}>To the view of this stop</button>` : nothing}
      ${
        at + 1 < stops.length
          ? html`<button class="primary" @click=${() => goTo(actions, id, at + 1)}>Next</button>`
          : html`<button class="primary" @click=${() => actions.set({ tour: null, view: 'tours' })}>To the tours</button>`
      }
    </p>
  </aside>`;
}
