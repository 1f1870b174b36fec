// What is seen before anything has run: a picture that was generated when this page was made.

/** @param {{get: () => State, set: (change: object) => void}} store
 * @param {Actions} actions */
export async function opening(store, actions) {
  const [answer, packed] = await Promise.all(['run.json', 'x0.bin'].map((name) => fetch(`opening/${name}`)));
  if (!answer.ok) return;
  const { request, sigmas, shape, rgb } = await answer.json();
  const run = {
    id: 'opening',
    request,
    seeds: [request.seed],
    state: /** @type {const} */ ('done'),
    images: 1,
    made: [true],
    steps: [sigmas.length - 1],
    sigmas,
    total: sigmas.length - 1,
    slot: null,
    from: null,
    error: null,
    notes: [],
    inputs: {},
    recorded: true,
  };
  const size = shape.reduce((/** @type {number} */ product, /** @type {number} */ side) => product * side, 1);
  const unpacked = /** @type {ReadableStream} */ (packed.body).pipeThrough(new DecompressionStream('deflate'));
  const bytes = new Int8Array(await new Response(unpacked).arrayBuffer());
  for (let i = size; i < bytes.length; i++) bytes[i] += bytes[i - size]; // each step is stored as its change
  actions.prime('latent-rgb', rgb);
  for (let step = 0; step < run.total; step++) {
    const data = Float32Array.from(bytes.subarray(step * size, (step + 1) * size), (value) => value / 16);
    actions.primeArray(run.id, step, 'x0', { data, shape });
  }
  store.set({ runs: { opening: run }, order: ['opening'], current: store.get().current ?? 'opening' });
}
