// The button of every view that copies what it shows as Python, as a command, or as an HTTP request.

import { html, nothing } from '../vendor/lit-html.js';

const KINDS = /** @type {const} */ ([
  ['python', 'Python'],
  ['cli', 'CLI'],
  ['http', 'HTTP'],
]);

/** @param {Snippets} texts @param {string} of what they are about @param {State} state @param {Actions} actions */
export function copyMenu(texts, of, state, actions) {
  const shown = /** @type {keyof Snippets} */ (state.local.copyKind ?? 'python');
  const copied = state.local.copied === texts[shown];
  const copy = async () => {
    await navigator.clipboard.writeText(texts[shown]);
    actions.keep('copied', texts[shown]);
  };
  return html`<details class="copy">
    <summary class="button">Copy as…</summary>
    <div class="sheet">
      <div role="group" aria-label="Language" class="segments">
        ${KINDS.map(
          ([kind, title]) =>
            html`<button aria-pressed=${kind === shown} @click=${() => actions.keep('copyKind', kind)}>${title}</button>`,
        )}
      </div>
      ${of ? html`<p class="muted">${of}</p>` : nothing}
      <pre tabindex="0"><code>${texts[shown]}</code></pre>
      <button class="primary" @click=${copy}>${copied ? 'Copied' : 'Copy'}</button>
    </div>
  </details>`;
}
