// The shapes that modules share, as types alone: nothing here runs, and none of it is sent.

import type * as actions from './actions.js';
import type * as attention from './attention.js';
import type * as colours from './draw/colours.js';
import type * as inspections from './inspections.js';
import type * as tensors from './tensors.js';
import type * as modules from './views/modules.js';
import type { TemplateResult } from './vendor/lit-html.js';

declare global {
  type Actions = actions.Actions;
  type Field = attention.Field;
  type Inspected = inspections.Inspected;
  type Module = modules.Module;
  type Picture = colours.Picture;
  type Tensor = tensors.Tensor;
  type Tensors = tensors.Tensors;

  type Template = TemplateResult;

  /** The one linked selection. Every view shows it and may change it: a token of the prompt, a position of the latents, a step
   * of the run, a block of the U-Net, a head of its attention. */
  type Selected = {
    word: number | null;
    position: [number, number] | null;
    step: number | null;
    block: string | null;
    head: number | null;
  };

  /** Options of a call, as `diffuscope schema` has them; what is left out is the preset's. */
  type Options = Record<string, any>;

  /** What the server says of itself: GET /api/v1/about. */
  type About = {
    version: string;
    model: string;
    shipped?: boolean;
    /** The arguments of `load` that open it so, beside its name. */
    load?: Options;
    preset: Options;
    /** Whether a run of the preset costs a moment. */
    quick: boolean;
    draws: string;
    /** LoRAs that a prompt may name as <lora:name:1>, and words of textual inversion. */
    loras: string[];
    embeddings: string[];
    /** Prompts that show what it draws. */
    examples: string[];
    device: string;
    samplers: { name: string; label: string; about: string; options: Options; order: number; calls: number; noise: string }[];
    request: Schema;
    /** Options that hold for a whole run. */
    whole_run: string[];
    /** Options that this model does not have. */
    absent: string[];
    latents: { channels: number; factor: number };
    text_encoders: { layers: number; width: number }[];
    inpaints: boolean;
    edits: boolean;
    zero_snr: boolean;
    waiting: number;
  };

  /** JSON Schema, as far as the form reads it. */
  type Schema = {
    type?: string;
    title?: string;
    description?: string;
    default?: any;
    enum?: any[];
    anyOf?: Schema[];
    items?: Schema;
    minItems?: number;
    maxItems?: number;
    minimum?: number;
    maximum?: number;
    exclusiveMinimum?: number;
    exclusiveMaximum?: number;
    properties?: Record<string, Schema>;
    'x-group'?: string;
  };

  /** A job of the server, as the page follows it. */
  type Run = {
    id: string;
    request: Options;
    /** The ids of its pictures, as arguments of a job. */
    inputs: Record<string, string>;
    state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled';
    images: number;
    seeds: number[];
    /** Whether each image is there. */
    made: boolean[];
    steps: number[];
    /** `sigmas[k]` is the noise level after step k of image 0. */
    sigmas: number[];
    total: number;
    slot: string | null;
    from: Origin | null;
    error: string | null;
    /** What it has to say of the request, such as words that the model never learned. */
    notes: string[];
    /** How long it took, once it is done. */
    seconds?: number | null;
    recorded?: boolean;
  };

  /** Where a branch left its parent. */
  type Origin = { job: string; image?: number; step: number };

  type Values = { data: Float32Array; shape: number[] };

  type State = {
    about: About | null;
    options: Options;
    image: string | null;
    mask: string | null;
    view: string;
    theme: 'auto' | 'light' | 'dark';
    selection: Selected;
    runs: Record<string, Run>;
    order: string[];
    current: string | null;
    other: string | null;
    tour: [string, number] | null;
    live: boolean;
    offline: boolean;
    error: { message: string; argument: string | null } | null;
    local: Record<string, any>;
  };

  /** A view. `needs` names conditions of needs.js; where one is not met the view folds and says why. `render` is a function
   * of the state alone; what it fetches it asks of `actions`, which answers from a cache and renders again when more has
   * come. `copy` gives what "Copy as" offers on this view. */
  type View = {
    id: string;
    title: string;
    group: string;
    about: string;
    needs: string[];
    render: (state: State, actions: Actions) => unknown;
    copy?: (state: State) => Snippets | null;
  };

  type Snippets = { python: string; cli: string; http: string };
}
