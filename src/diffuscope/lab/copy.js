// "Copy as": the Python, the command and the HTTP request that give what a view shows. A test runs each of them.

import { requestOf } from './inspections.js';
import { current } from './runs.js';

/** @typedef {import('./types.js').State} State */
/** @typedef {import('./types.js').View} View */
/** @typedef {import('./types.js').Snippets} Snippets */

/** @param {State} state @param {View} view @returns {Snippets|null} */
export function snippets(state, view) {
  return view.copy ? view.copy(state) : null;
}

/** Flags whose names are not those of the options. @type {Record<string, string>} */
const FLAGS = { num_inference_steps: 'steps', num_images_per_prompt: 'count', guidance_options: 'guidance' };

/** A value as Python writes it. @param {any} value @returns {string} */
export function python(value) {
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return `[${value.map(python).join(', ')}]`;
  if (typeof value === 'object')
    return `{${Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each)}`).join(', ')}}`;
  return JSON.stringify(value).replace(/[\u007f-\uffff]/g, (letter) => letter);
}

/** A text as a shell reads it. @param {any} text */
export const quoted = (text) => {
  const plain = String(text);
  return /^[\w.,:=/@%+-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", "'\\''")}'`;
};

/** The options of a request that are not their defaults, without the prompt. @param {State} state @param {any} request
 * @returns {[string, any][]} */
export function changed(state, request) {
  const known = state.about?.request?.properties ?? {};
  return Object.entries(request).filter(
    ([name, value]) => name !== 'prompt' && JSON.stringify(value) !== JSON.stringify(known[name]?.default ?? null),
  );
}

/** @param {[string, any][]} options @returns {string} ", name=value" of each */
export const keywords = (options) => options.map(([name, value]) => `, ${name}=${python(value)}`).join('');

/** @param {[string, any][]} options @returns {string} " --flag value" of each */
export function flags(options) {
  return options
    .flatMap(([name, value]) => {
      const flag = `--${(FLAGS[name] ?? name).replaceAll('_', '-')}`;
      if (name === 'sampler_options') return [flag, ...Object.entries(value).map(([key, each]) => `${key}=${each}`)];
      if (name === 'guidance_options' || name === 'thresholding')
        return Object.entries(value).flatMap(([key, each]) => oneFlag(`${flag}-${key.replaceAll('_', '-')}`, each));
      return oneFlag(flag, value);
    })
    .map((text) => ` ${text.startsWith('--') ? text : quoted(text)}`)
    .join('');
}

/** @param {string} flag @param {any} value @returns {string[]} */
function oneFlag(flag, value) {
  if (value === true) return [flag];
  if (value === false || value === null) return [];
  if (Array.isArray(value)) return [flag, ...(flag === '--sigmas' ? [value.join(',')] : value.map(String))];
  return [flag, String(value)];
}

/** Of a model that is not shipped, which the server knows by no path. @param {State} state */
const noteOf = (state) =>
  state.about?.shipped === false ? `  # ${state.about.model}: the file or folder that the lab was opened with` : '';

/** A call of the server with curl. @param {string} path @param {object|null} body @param {string} [more] */
function curl(path, body, more = '') {
  const address = `${location.origin}/api/v1/${path}`;
  const json = body ? ` --json ${quoted(JSON.stringify(body))}` : '';
  return `curl -sS -H "Authorization: Bearer $TOKEN" ${address}${json}${more}`;
}

const ID = `python -c 'import json,sys; print(json.load(sys.stdin)["id"])'`;
const TOKEN = 'TOKEN=...  # that of the address which `diffuscope lab` printed';

/** The tensors of an experiment. @param {State} state @param {string} kind @param {Record<string, any>} options
 * @param {string} tensor the one that is shown @returns {Snippets|null} none for a branch, which is
 * made by its parent's steps */
export function inspectionSnippets(state, kind, options, tensor) {
  const run = /** @type {import('./types.js').Run} */ (current(state));
  const request = requestOf(run);
  if (request.branch) return null;
  const rest = changed(state, request);
  const body = { kind, request: Object.fromEntries([['prompt', request.prompt], ...rest]), options };
  const given = Object.keys(options).length ? `, options=${python(options)}` : '';
  const pairs = Object.entries(options).map(
    ([name, value]) => ` ${quoted(`${name}=${Array.isArray(value) ? value.join(',') : value}`)}`,
  );
  const model = state.about?.model ?? 'emoji';
  return {
    python: `import diffuscope as ds
from diffuscope.lens.inspect import inspect

pipe = ds.load(${python(model)})${noteOf(state)}
found = inspect(pipe, ${python(kind)}, ${python(request.prompt)}${given}${keywords(rest)})
array = found[${python(tensor)}]`,
    cli: `diffuscope inspect ${quoted(request.prompt)} --kind ${kind}${
      pairs.length ? ` --options${pairs.join('')}` : ''
    }${flags(rest)} --model ${quoted(model)} --out ${kind}.safetensors${noteOf(state)}`,
    http: `${TOKEN}
JOB=$(${curl('inspections', body)} | ${ID})
${curl('jobs/$JOB/events', null, ' > /dev/null')}  # until it has ended
${curl('inspections/$JOB/tensors', null, ` --output ${kind}.safetensors`)}`,
  };
}

/** The request of a run as it was, its seed named. @param {import('./types.js').Run} run @returns {any} */
function wholeRequest(run) {
  const request = Object.fromEntries(Object.entries(run.request).filter(([, value]) => value !== null));
  if (run.seeds.length) request.seed = run.seeds[0];
  return request;
}

/** The image of the run on show. @param {State} state @returns {Snippets|null} */
export function imageSnippets(state) {
  const run = current(state);
  if (!run) return null;
  if (run.from) return branchSnippets(state, run);
  const request = wholeRequest(run);
  const rest = changed(state, request);
  const model = state.about?.model ?? 'emoji';
  const prompt = Array.isArray(request.prompt) ? python(request.prompt) : python(request.prompt ?? '');
  const body = { request: Object.fromEntries([['prompt', request.prompt], ...rest]) };
  return {
    python: `import diffuscope as ds
import numpy as np

pipe = ds.load(${python(model)})${noteOf(state)}
result = pipe(${prompt}${keywords(rest)})
result.save("image.png")
array = np.asarray(result.images[0])`,
    cli: `diffuscope generate ${quoted([request.prompt].flat()[0])}${flags(rest)} --model ${quoted(model)} --out image.png${noteOf(state)}`,
    http: `${TOKEN}
JOB=$(${curl('jobs', body)} | ${ID})
${curl('jobs/$JOB/events', null, ' > /dev/null')}  # until it has ended
${curl('jobs/$JOB/images/0.png', null, ' --output image.png')}`,
  };
}

/** A branch with nothing but what is set, also in the requests within. @param {State} state @param {any} branch
 * @returns {any} */
function bare(state, { step, request, x }) {
  const inner = Object.fromEntries([['prompt', request.prompt], ...changed(state, request)]);
  if (inner.branch) inner.branch = bare(state, inner.branch);
  return { step, request: Object.fromEntries(Object.entries(inner).filter(([, each]) => each !== null)), ...(x ? { x } : {}) };
}

/** The image of a branch: one request, which holds that of the run that it left. @param {State} state
 * @param {import('./types.js').Run} run @returns {Snippets} */
function branchSnippets(state, run) {
  const { branch, ...own } = wholeRequest(run);
  const rest = /** @type {[string, any][]} */ ([...changed(state, own), ['branch', bare(state, branch)]]);
  const model = state.about?.model ?? 'emoji';
  const before = /** @type {any} */ (rest.at(-1))[1].request;
  const { prompt, ...options } = before;
  options.seed ??= own.seed; // it may stand in either request
  const differs = Object.entries(own).filter(
    ([name, value]) => name !== 'seed' && JSON.stringify(value) !== JSON.stringify(before[name]),
  );
  const byHand = branch.x || before.branch;
  const body = { request: Object.fromEntries([['prompt', own.prompt], ...rest]) };
  return {
    python: `import diffuscope as ds
import numpy as np

pipe = ds.load(${python(model)})${noteOf(state)}
result = pipe(${python(own.prompt)}${keywords(rest)})
result.save("image.png")
array = np.asarray(result.images[0])`,
    cli: byHand
      ? '# A command branches an image once; for painted latents, or a branch of a branch, take the Python.'
      : `diffuscope generate ${quoted([prompt].flat()[0])}${flags(Object.entries(options))} --model ${quoted(model)} --out before.png${noteOf(state)}
diffuscope branch before.png --step ${branch.step}${flags(differs)} --out image.png`,
    http: `${TOKEN}
JOB=$(${curl('jobs', body)} | ${ID})
${curl('jobs/$JOB/events', null, ' > /dev/null')}  # until it has ended
${curl('jobs/$JOB/images/0.png', null, ' --output image.png')}`,
  };
}

/** The noise levels of the run on show. @param {State} state @returns {Snippets|null} */
export function levelSnippets(state) {
  const run = current(state);
  if (!run || run.from) return null;
  const request = requestOf(run);
  const rest = changed(state, request);
  const model = state.about?.model ?? 'emoji';
  const call = `pipe.steps(${python(request.prompt)}${keywords(rest)}).levels.sigmas`;
  return {
    python: `import diffuscope as ds

pipe = ds.load(${python(model)})${noteOf(state)}
array = ${call}`,
    cli: `python -c ${quoted(`import diffuscope as ds; pipe = ds.load(${python(model)}); print(list(${call}))`)}${noteOf(state)}`,
    http: `${TOKEN}
${curl('plan', { request: Object.fromEntries([['prompt', request.prompt], ...rest]) })}`,
  };
}

/** How far two runs are apart at each step. @param {State} state @returns {Snippets|null} */
export function differenceSnippets(state) {
  const runs = [current(state), state.runs[state.other ?? '']];
  if (!runs[0] || !runs[1] || runs.some((run) => run?.from)) return null;
  const model = state.about?.model ?? 'emoji';
  const calls = runs.map((run) => {
    const request = requestOf(/** @type {any} */ (run));
    return { request, rest: changed(state, request) };
  });
  const bodies = calls.map(({ request, rest }) => ({
    kind: 'steps',
    request: Object.fromEntries([['prompt', request.prompt], ...rest]),
  }));
  const inspected = calls.map(
    ({ request, rest }) => `inspect(pipe, "steps", ${python(request.prompt)}${keywords(rest)})["x0"]`,
  );
  const names = ['one', 'other'];
  return {
    python: `import diffuscope as ds
from diffuscope.lens.inspect import inspect

pipe = ds.load(${python(model)})${noteOf(state)}
one = ${inspected[0]}
other = ${inspected[1]}
array = one - other`,
    cli: calls
      .map(
        ({ request, rest }, k) =>
          `diffuscope inspect ${quoted(request.prompt)} --kind steps${flags(rest)} --model ${quoted(model)} --out ${names[k]}.safetensors${noteOf(state)}`,
      )
      .join('\n'),
    http: `${TOKEN}
${bodies
  .map(
    (body, k) => `JOB=$(${curl('inspections', body)} | ${ID})
${curl('jobs/$JOB/events', null, ' > /dev/null')}
${curl('inspections/$JOB/tensors', null, ` --output ${names[k]}.safetensors`)}`,
  )
  .join('\n')}`,
  };
}

/** The spread of a tensor's numbers. @param {State} state @param {string} tensor @returns {Snippets} */
export function spreadSnippets(state, tensor) {
  const model = state.about?.model ?? 'emoji';
  const call = `histogram(pipe, ${python(tensor)})["counts"]`;
  return {
    python: `import diffuscope as ds
from diffuscope.lens.modules import histogram

pipe = ds.load(${python(model)})${noteOf(state)}
array = ${call}`,
    cli: `python -c ${quoted(`import diffuscope as ds; from diffuscope.lens.modules import histogram; pipe = ds.load(${python(model)}); print(${call})`)}${noteOf(state)}`,
    http: `${TOKEN}
${curl(`modules/${tensor}/histogram`, null)}`,
  };
}

/** The tokens of a text. @param {State} state @param {string} text @returns {Snippets} */
export function textSnippets(state, text) {
  const model = state.about?.model ?? 'emoji';
  const call = `pipe.tokenizer.encode(${python(text)})[0].tolist()`;
  return {
    python: `import diffuscope as ds

pipe = ds.load(${python(model)})${noteOf(state)}
array = ${call}`,
    cli: `python -c ${quoted(`import diffuscope as ds; pipe = ds.load(${python(model)}); print(${call})`)}${noteOf(state)}`,
    http: `${TOKEN}
${curl('text', { prompt: text, nearest: 6 })}`,
  };
}
