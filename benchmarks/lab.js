// What benchmarks/lab.py runs in the page: each function gives milliseconds, from what a hand does to the frame that shows it.

const strip = () => [...document.querySelectorAll('.strip canvas')].filter((each) => each.style.aspectRatio).length;
const end = () => document.querySelector('.time .end img');
const run = () => new URLSearchParams(location.hash.slice(1)).get('run');
const text = (selector) => document.querySelector(selector).textContent;

/** How long until the frame in which this holds. It looks when something changes: a page that is asked in every
 * frame draws every frame, which it does for nobody else. */
function until(check) {
  const from = performance.now();
  return new Promise((go) => {
    const observer = new MutationObserver(look);
    function look() {
      if (!check()) return;
      observer.disconnect();
      document.removeEventListener('load', look, true);
      go(performance.now() - from);
    }
    observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    document.addEventListener('load', look, true); // of images
    look();
  });
}

/** When each was there for the first time, since the page was asked for; and when that was. */
const opened = Promise.all(
  [
    ['a picture', () => document.querySelector("img[src='opening/fox.webp']")?.complete],
    ['a recorded run', () => strip() === 12],
    ['first live preview', () => run() && strip()],
    ['first live picture', () => end()?.complete && end().src.includes('/pictures/')],
  ].map(([name, there]) => until(there).then(() => [name, performance.now()])),
);
window.opening = async () => [Object.fromEntries(await opened), performance.timeOrigin];

function changed(selector, act) {
  const before = text(selector);
  act();
  return until(() => text(selector) !== before);
}

function type(words) {
  const field = document.querySelector('#prompt');
  field.value = words;
  field.dispatchEvent(new Event('input', { bubbles: true }));
}

/** Point at words, at places of a map, and go through the steps, in the view of attention. */
window.pointing = async () => {
  const found = { word: [], place: [], step: [] };
  const shown = '.beside figcaption';
  for (let k = 0; k < 20; k++) {
    const words = [...document.querySelectorAll('.ranking .word')];
    const other = words.find((each) => !text(shown).startsWith(each.querySelector('span').textContent));
    found.word.push(await changed(shown, () => other.dispatchEvent(new PointerEvent('pointerenter'))));
  }
  const map = document.querySelector('.beside lab-raster');
  const box = map.getBoundingClientRect();
  for (let k = 0; k < 20; k++) {
    const [x, y] = [10 + ((k * 17) % (box.width - 20)), 10 + ((k * 31) % (box.height - 20))];
    const move = new PointerEvent('pointermove', { clientX: box.x + x, clientY: box.y + y });
    found.place.push(await changed('.column h2', () => map.dispatchEvent(move)));
  }
  for (let k = 0; k < 10; k++) {
    const key = new KeyboardEvent('keydown', { key: k ? 'ArrowLeft' : 'End' });
    found.step.push(await changed(shown, () => document.querySelector('.strip').dispatchEvent(key)));
  }
  return found;
};

/** Type words, each until its tokens are there, in the view of tokens. */
window.typing = async (words) => {
  const found = [];
  for (const word of words) {
    type(`${document.querySelector('#prompt').value} ${word}`);
    found.push(await until(() => text('.pieces').includes(word)));
  }
  return found;
};

/** Generate another prompt: until its first preview, previews a second from there on, and until the picture. */
window.changing = async (prompt) => {
  const before = run();
  type(prompt);
  document.querySelector('#prompt').form.requestSubmit();
  const first = await until(() => run() !== before && strip());
  const rest = await until(() => strip() === 12);
  const last = await until(() => text('.time .end small') === 'done' && end()?.complete);
  return { first, previews: 11000 / rest, picture: first + rest + last };
};
