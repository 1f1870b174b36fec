// A safetensors file as typed arrays, which are views of its bytes: nothing is copied unless it must be aligned.

/** @typedef {Uint8Array|Int32Array|Float32Array} Data */
/** @typedef {{data: Data, shape: number[]}} Tensor */
/** @typedef {Record<string, Tensor>} Tensors */

const KINDS = { U8: Uint8Array, I32: Int32Array, F32: Float32Array };

/** @param {ArrayBuffer} buffer @returns {{tensors: Tensors, about: any}} */
export function readTensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  /** @type {Tensors} */
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === '__metadata__') continue;
    const { dtype, shape, data_offsets: range } = /** @type {any} */ (entry);
    const Kind = KINDS[/** @type {keyof typeof KINDS} */ (dtype)];
    if (!Kind) throw new Error(`the tensor ${name} is of type ${dtype}, which the page does not read`);
    const [from, to] = range.map((/** @type {number} */ at) => at + 8 + length);
    const aligned = from % Kind.BYTES_PER_ELEMENT === 0;
    const data = aligned
      ? new Kind(buffer, from, (to - from) / Kind.BYTES_PER_ELEMENT)
      : new Kind(buffer.slice(from, to));
    tensors[name] = { data, shape };
  }
  return { tensors, about: JSON.parse(header.__metadata__?.diffuscope ?? 'null') };
}

/** Part of a tensor at the first indices, without a copy. @param {Tensor} tensor @param {number[]} at @returns {Tensor} */
export function part({ data, shape }, ...at) {
  const rest = shape.slice(at.length);
  const size = rest.reduce((product, side) => product * side, 1);
  const start = at.reduce((sum, index, axis) => sum * shape[axis] + index, 0) * size;
  return { data: data.subarray(start, start + size), shape: rest };
}

/** An image [H,W,3] of bytes as a picture. @param {Tensor} tensor @returns {Picture} */
export function image({ data, shape }) {
  const [height, width] = shape;
  const rgba = new Uint8ClampedArray(width * height * 4);
  for (let i = 0; i < width * height; i++) {
    rgba[i * 4] = data[i * 3];
    rgba[i * 4 + 1] = data[i * 3 + 1];
    rgba[i * 4 + 2] = data[i * 3 + 2];
    rgba[i * 4 + 3] = 255;
  }
  return { width, height, rgba };
}

/** Each image is made once. @type {WeakMap<Tensor, Picture[]>} */
const made = new WeakMap();

/** Image k of `pictures` [n,H,W,3], or null where it is not there yet. @param {Tensors} tensors @param {number} k
 * @returns {Picture|null} */
export function pictureOf(tensors, k) {
  const all = tensors.pictures;
  if (!all || !tensors.done?.data[k]) return null;
  const kept = made.get(all) ?? [];
  made.set(all, kept);
  return (kept[k] ??= image(part(all, k)));
}
