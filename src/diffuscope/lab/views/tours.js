// The list of the tours: ten chapters, each over the live model.

import { html } from '../vendor/lit-html.js';
import { imageSnippets } from '../copy.js';
import { goTo, stopsOf, toursOf } from '../tours.js';

/** @type {View} */
export const tours = {
  id: 'tours',
  title: 'Tours',
  group: 'Learn',
  about: 'Ten walks through the model, on your own prompt: the chapters of the deep dive. Leave and come back anywhere.',
  copy: imageSnippets,
  needs: ['model'],
  render(state, actions) {
    return html`<ol class="tours">
      ${toursOf(actions).map((tour) => {
        stopsOf(actions, tour.id); // on its way before it is opened
        const begun = state.tour?.[0] === tour.id ? state.tour[1] + 1 : 0;
        return html`<li>
          <button class="tour" @click=${() => goTo(actions, tour.id, begun ? begun - 1 : 0)}>
            <span class="num">${Number(tour.id)}</span>
            <b>${tour.title}</b>
            <span class="about">${tour.about}</span>
            <small>${begun ? `at stop ${begun} of ${tour.stops}` : `${tour.stops} stops`}</small>
          </button>
        </li>`;
      })}
    </ol>`;
  },
};
