// The shapes that modules share, as types alone: nothing here runs.

/**
 * @typedef {import('./vendor/lit-html.js').TemplateResult} Template
 *
 * The one linked selection. Every view shows it and may change it: a token of the prompt, a place of the latents,
 * a step of the run, a block of the U-Net, a head of its attention.
 * @typedef {{word: number|null, place: [number, number]|null, step: number|null, block: string|null,
 *   head: number|null}} Selection
 *
 * Options of a call, as `diffuscope schema` has them; what is left out is the preset's.
 * @typedef {Record<string, any>} Options
 *
 * What the server says of itself: GET /api/v1/about.
 * @typedef {{version: string, model: string, shipped?: boolean, preset: Options, draws: string, device: string,
 *   samplers: {name: string, label: string, about: string, options: Options, order: number, calls: number,
 *   noise: string}[], request: Schema, latents: {channels: number, factor: number},
 *   text_encoders: {layers: number, width: number}[], inpaints: boolean, edits: boolean, zero_snr: boolean,
 *   places: number, waiting: number}} About
 *
 * JSON Schema, as far as the form reads it.
 * @typedef {{type?: string, title?: string, description?: string, default?: any, enum?: any[], anyOf?: Schema[],
 *   items?: Schema, minItems?: number, maxItems?: number, minimum?: number, maximum?: number,
 *   exclusiveMinimum?: number, exclusiveMaximum?: number, properties?: Record<string, Schema>,
 *   'x-group'?: string}} Schema
 *
 * A job of the server, as the page follows it. `made[k]` says whether image k is there; `sigmas[k]` is the noise level
 * after step k of image 0.
 * @typedef {{id: string, request: Options, state: 'queued'|'running'|'done'|'failed'|'cancelled', images: number, seeds: number[],
 *   made: boolean[], steps: number[], sigmas: number[], total: number, slot: string|null, from: Origin|null,
 *   error: string|null, inputs: Record<string, string>, at: number, recorded?: boolean}} Run
 *
 * Where a branch left its parent.
 * @typedef {{job: string, image?: number, step: number}} Origin
 *
 * @typedef {{data: Float32Array, shape: number[]}} Values
 *
 * @typedef {{
 *   about: About|null,
 *   options: Options,
 *   image: string|null,
 *   mask: string|null,
 *   view: string,
 *   theme: 'auto'|'light'|'dark',
 *   selection: Selection,
 *   runs: Record<string, Run>,
 *   order: string[],
 *   current: string|null,
 *   other: string|null,
 *   tour: [string, number]|null,
 *   live: boolean,
 *   offline: boolean,
 *   error: {message: string, argument: string|null}|null,
 *   local: Record<string, any>,
 * }} State
 *
 * A view. `needs` names conditions of needs.js; where one is not met the view folds and says why.
 * `render` is a function of the state alone; what it fetches it asks of `actions`, which answers from a cache and
 * renders again when more has come. `copy` gives what "Copy as" offers on this view.
 * @typedef {{id: string, title: string, group: string, about: string, needs: string[],
 *   render: (state: State, actions: import('./actions.js').Actions) => unknown,
 *   copy?: (state: State) => Snippets|null, source?: string}} View
 *
 * @typedef {{python: string, cli: string, http: string}} Snippets
 */
export {};
