// The arithmetic of attention maps: shares of words at positions, averaged over calls, heads and blocks. Plain functions of
// the arrays of an experiment; each answer is made once.

/** @typedef {{data: Float32Array, width: number, height: number}} Field */
/** @typedef {{from: number, to: number, block: string|null, head: number|null}} Part */

const CROSS = '.cross_attn';

/** @type {WeakMap<Tensors, Map<string, any>>} */
const made = new WeakMap();

/** @template T @param {Tensors} tensors @param {string} key @param {() => T} make @returns {T} */
function once(tensors, key, make) {
  const kept = made.get(tensors) ?? new Map();
  made.set(tensors, kept);
  if (!kept.has(key)) kept.set(key, make());
  return kept.get(key);
}

/** The blocks that have cross-attention, in the order in which they run. @param {Tensors} tensors
 * @param {string} [prefix] before their names @returns {string[]} */
export const blocksOf = (tensors, prefix = '') =>
  once(tensors, `blocks ${prefix}`, () =>
    Object.keys(tensors)
      .filter((name) => name.startsWith(`${prefix}unet.`) && name.endsWith(CROSS))
      .map((name) => name.slice(prefix.length, -CROSS.length))
      .sort(),
  );

/** A block's name as one reads it: "down 0.1". @param {string} block */
export function blockLabel(block) {
  const [, stage, ...rest] = block.split('.');
  const numbers = rest.filter((part) => /^\d+$/.test(part));
  const last = numbers.pop();
  return `${stage} ${numbers.join('.')}${last && last !== '0' ? `, block ${last}` : ''}`;
}

/** The network calls of a step, or all that there are. @param {any} about @param {number|null} step
 * @param {number} there calls so far */
export function callsOf(about, step, there) {
  const counts = /** @type {number[]} */ (about?.calls_per_step ?? []);
  if (step === null) return { from: 0, to: there };
  const from = counts.slice(0, step).reduce((sum, count) => sum + count, 0);
  const first = Math.max(0, Math.min(from, there - 1)); // a step that a branch has kept shows the first one made anew
  return { from: first, to: Math.max(first + 1, Math.min(from + (counts[step] ?? 1), there)) };
}

/** Network calls that are there. @param {Tensors} tensors @param {string} [prefix] */
export const callsThere = (tensors, prefix = '') =>
  tensors[`${prefix}${blocksOf(tensors, prefix)[0]}${CROSS}`]?.shape[0] ?? 0;

/** Heads of a block. @param {Tensors} tensors @param {string} block @param {string} [prefix] */
export const headsOf = (tensors, block, prefix = '') => tensors[`${prefix}${block}${CROSS}`]?.shape[1] ?? 0;

/** One block's map of a word, at its own size. @param {Tensors} tensors @param {number} word @param {Part} part
 * @param {string} block @param {string} prefix @returns {Field} */
function own(tensors, word, { from, to, head }, block, prefix) {
  const { data, shape } = tensors[`${prefix}${block}${CROSS}`];
  const scale = tensors[`${prefix}${block}${CROSS}.scale`].data;
  const [, heads, words, height, width] = shape;
  const sum = new Float32Array(height * width);
  let count = 0;
  for (let call = from; call < to; call++)
    for (let h = 0; h < heads; h++) {
      if (head !== null && heads > 1 && h !== Math.min(head, heads - 1)) continue;
      const at = (call * heads + h) * words + word;
      const factor = scale[at] / 255;
      const start = at * height * width;
      for (let i = 0; i < sum.length; i++) sum[i] += data[start + i] * factor;
      count += 1;
    }
  for (let i = 0; i < sum.length; i++) sum[i] /= count || 1;
  return { data: sum, width, height };
}

/** A field at another size, linearly between the centres of its cells. @param {Field} field @param {number} width
 * @param {number} height @returns {Field} */
export function resized(field, width, height) {
  if (field.width === width && field.height === height) return field;
  const data = new Float32Array(width * height);
  for (let y = 0; y < height; y++) {
    const sy = Math.max(0, Math.min(field.height - 1, ((y + 0.5) * field.height) / height - 0.5));
    const y0 = Math.floor(sy);
    const y1 = Math.min(field.height - 1, y0 + 1);
    for (let x = 0; x < width; x++) {
      const sx = Math.max(0, Math.min(field.width - 1, ((x + 0.5) * field.width) / width - 0.5));
      const x0 = Math.floor(sx);
      const x1 = Math.min(field.width - 1, x0 + 1);
      const above = field.data[y0 * field.width + x0] * (x0 + 1 - sx) + field.data[y0 * field.width + x1] * (sx - x0);
      const below = field.data[y1 * field.width + x0] * (x0 + 1 - sx) + field.data[y1 * field.width + x1] * (sx - x0);
      data[y * width + x] = above * (y0 + 1 - sy) + below * (sy - y0);
    }
  }
  return { data, width, height };
}

/** The share of each position's attention that goes to a word: of one block at its own size, or the mean over all blocks
 * at the size of the finest. @param {Tensors} tensors @param {number} word @param {Part} part @param {string} [prefix]
 * @returns {Field} */
export function wordMap(tensors, word, part, prefix = '') {
  const key = `map ${prefix} ${word} ${JSON.stringify(part)}`;
  return once(tensors, key, () => {
    if (part.block) return own(tensors, word, part, part.block, prefix);
    const fields = blocksOf(tensors, prefix).map((block) => own(tensors, word, part, block, prefix));
    const width = Math.max(...fields.map((field) => field.width));
    const height = Math.max(...fields.map((field) => field.height));
    const data = new Float32Array(width * height);
    for (const field of fields) {
      const large = resized(field, width, height).data;
      for (let i = 0; i < data.length; i++) data[i] += large[i] / fields.length;
    }
    return { data, width, height };
  });
}

/** The value of a field at a position of a grid. @param {Field} field @param {[number, number]} position
 * @param {[number, number]} grid */
export const valueAt = (field, [x, y], [width, height]) =>
  field.data[
    Math.min(field.height - 1, Math.floor(((y + 0.5) * field.height) / height)) * field.width +
      Math.min(field.width - 1, Math.floor(((x + 0.5) * field.width) / width))
  ];

/** @param {Field} field */
export const meanOf = (field) => field.data.reduce((sum, value) => sum + value, 0) / field.data.length;

/** @param {Field} field */
export const most = (field) => field.data.reduce((high, value) => Math.max(high, value), 0);
