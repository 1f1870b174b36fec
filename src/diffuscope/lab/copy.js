// "Copy as": the Python, the command and the HTTP request that give what a view shows. A test runs each of them.

import { requestOf } from './inspections.js';
import { current } from './runs.js';

/** @typedef {{prompt: any, options: [string, any][], inputs: Record<string, string>, files: [string, string][]}} Call a
 * request, without what is left to its default, the ids of its pictures, and the files that stand for them elsewhere */

/** Flags whose names are not those of the options. @type {Record<string, string>} */
const FLAGS = {
  num_inference_steps: 'steps',
  num_images_per_prompt: 'count',
  guidance_options: 'guidance',
  mask_image: 'mask',
};

/** A value as Python writes it. @param {any} value @returns {string} */
export function python(value) {
  if (value === null || value === undefined) return 'None';
  if (typeof value === 'boolean') return value ? 'True' : 'False';
  if (Array.isArray(value)) return `[${value.map(python).join(', ')}]`;
  if (typeof value === 'object')
    return `{${Object.entries(value).map(([name, each]) => `${python(name)}: ${python(each)}`).join(', ')}}`;
  return JSON.stringify(value);
}

/** A text as a shell reads it. @param {any} text */
const quoted = (text) => {
  const plain = String(text);
  return /^[\w.,:=/@%+-]+$/.test(plain) ? plain : `'${plain.replaceAll("'", "'\\''")}'`;
};

/** The options of a request that are not their defaults, without the prompt. @param {State} state @param {any} request
 * @returns {[string, any][]} */
function changed(state, request) {
  const known = state.about?.request?.properties ?? {};
  return Object.entries(request).filter(
    ([name, value]) => name !== 'prompt' && JSON.stringify(value) !== JSON.stringify(known[name]?.default ?? null),
  );
}

/** @param {State} state @param {any} request @param {Record<string, string>} inputs @param {string} [prefix] of its files
 * @returns {Call} */
function callOf(state, { branch, ...request }, inputs, prefix = '') {
  const options = changed(state, request);
  if (branch) options.push(['branch', bare(state, branch)]);
  const files = Object.keys(inputs).map((name) => /** @type {[string, string]} */ ([name, `${prefix}${name === 'image' ? 'start' : 'mask'}.png`]));
  return { prompt: request.prompt ?? '', options, inputs, files };
}

/** A branch with nothing but what is set, also in the requests within. @param {State} state @param {any} branch
 * @returns {any} */
function bare(state, { step, request, x }) {
  const inner = Object.fromEntries([['prompt', request.prompt], ...changed(state, request)]);
  if (inner.branch) inner.branch = bare(state, inner.branch);
  return { step, request: Object.fromEntries(Object.entries(inner).filter(([, each]) => each !== null)), ...(x ? { x } : {}) };
}

/** The request of a run as it was, its seed named. @param {Run} run @returns {any} */
function wholeRequest(run) {
  const request = Object.fromEntries(Object.entries(run.request).filter(([, value]) => value !== null));
  if (run.seeds.length) request.seed = run.seeds[0];
  return request;
}

/** Where the pictures of a call are, for whoever keeps them as files. @param {Call} call */
const sources = ({ inputs, files }) =>
  files.map(([name, file]) => `# ${file}: ${location.origin}/api/v1/pictures/${inputs[name]}.png\n`).join('');

/** @param {Call} call @returns {string} ", name=value" of each option */
const keywords = ({ options, files }) =>
  [...options, ...files].map(([name, value]) => `, ${name}=${python(value)}`).join('');

/** @param {Call} call @returns {string} " --flag value" of each option */
function flags({ options, files }) {
  return [...options, ...files]
    .flatMap(([name, value]) => {
      const flag = `--${(FLAGS[name] ?? name).replaceAll('_', '-')}`;
      if (name === 'branch') return ['--branch-file', 'branch.json'];
      if (name === 'sampler_options') return [flag, ...Object.entries(value).map(([key, each]) => `${key}=${each}`)];
      if (name === 'guidance_options' || name === 'thresholding')
        return Object.entries(value).flatMap(([key, each]) => oneFlag(`${flag}-${key.replaceAll('_', '-')}`, each));
      return oneFlag(flag, value);
    })
    .map((text) => ` ${quoted(text)}`)
    .join('');
}

/** @param {string} flag @param {any} value @returns {string[]} */
function oneFlag(flag, value) {
  if (value === true) return [flag];
  if (value === false || value === null) return [];
  if (Array.isArray(value)) return [flag, ...(flag === '--sigmas' ? [value.join(',')] : value.map(String))];
  return [flag, String(value)];
}

/** The file of a branch, which no flag can hold. @param {Call} call */
function branchFile({ options }) {
  const branch = options.find(([name]) => name === 'branch');
  return branch ? `echo ${quoted(JSON.stringify(branch[1]))} > branch.json\n` : '';
}

/** The served model. @param {State} state */
const modelOf = (state) => state.about?.model ?? 'emoji';

/** How it was opened, where that is not how `load` opens it by itself. @param {State} state @returns {[string, any][]} */
const howOf = (state) => Object.entries(state.about?.load ?? {});

/** @param {State} state */
const loaded = (state) =>
  `ds.load(${[python(modelOf(state)), ...howOf(state).map(([name, value]) => `${name}=${python(value)}`)].join(', ')})`;

/** The flags of a command that runs it. @param {State} state @param {Call} call */
const opens = (state, call) =>
  ` --model ${quoted(modelOf(state))}${howOf(state).map(([name, value]) => ` --${name} ${typeof value === 'string' ? value : python(value)}`).join('')}${adapters(state, JSON.stringify(call)).map(([, flag]) => flag).join('')}`;

/** Of a model that is not shipped, which the server knows by no path. @param {State} state */
const noteOf = (state) =>
  state.about?.shipped === false ? `  # ${state.about.model}: the file or folder that the lab was opened with` : '';

/** @param {State} state @param {string} code @param {string[]} imports */
const script = (state, code, ...imports) =>
  `import diffuscope as ds
${imports.map((line) => `${line}\n`).join('')}
pipe = ${loaded(state)}${noteOf(state)}
${adapters(state, code).map(([does]) => `${does}  # as the lab was opened\n`).join('')}${code}`;

/** What loads the LoRAs and learned words that a text names, in Python and as a flag. @param {State} state @param {string} text
 * @returns {[string, string][]} */
function adapters({ about }, text) {
  /** @type {[string, string][]} */
  const found = text.includes('<lora:') ? [['pipe.lora_dir = "loras"', ' --lora-dir loras']] : [];
  for (const word of about?.embeddings ?? [])
    if (text.toLowerCase().includes(word.toLowerCase())) {
      const file = `${word.replaceAll(/\W/g, '')}.safetensors`;
      found.push([`pipe.load_embedding(${python(file)})`, ` --embedding ${file}`]);
    }
  return found;
}

/** @param {State} state @param {string} code an expression, which is printed @param {string} [imports] */
const oneLine = (state, code, imports = '') =>
  `python -c ${quoted(`import diffuscope as ds; ${imports}pipe = ${loaded(state)}; ${adapters(state, code).map(([does]) => `${does}; `).join('')}print(${code})`)}${noteOf(state)}`;

/** A command with a call. @param {State} state @param {string} name @param {Call} call @param {string} rest */
const command = (state, name, call, rest) =>
  `diffuscope ${name} ${quoted([call.prompt].flat()[0])}${flags(call)}${opens(state, call)}${rest}${noteOf(state)}`;

/** A call of the server with curl. @param {string} path @param {string|null} json what a shell reads as the body
 * @param {string} [more] */
const curl = (path, json, more = '') =>
  `curl -sS -H "Authorization: Bearer $TOKEN" ${location.origin}/api/v1/${path}${json ? ` --json ${json}` : ''}${more}`;

const ID = `python -c 'import json,sys; print(json.load(sys.stdin)["id"])'`;
const TOKEN = 'TOKEN=...  # that of the address which `diffuscope lab` printed\n';

/** Queue a job, and fetch what it has made. @param {string} path @param {string} json @param {string} found
 * @param {string} file */
const fetched = (path, json, found, file) => `JOB=$(${curl(path, json)} | ${ID})
${curl('jobs/$JOB/events', null, ' > /dev/null')}  # until it has ended
${curl(found, null, ` --output ${file}`)}`;

/** @param {Call} call @param {object} [more] */
const body = ({ prompt, options, inputs }, more = {}) => ({
  ...more,
  request: Object.fromEntries([['prompt', prompt], ...options]),
  ...inputs,
});

/** @param {object} made */
const json = (made) => quoted(JSON.stringify(made));

/** The tensors of an experiment. @param {State} state @param {string} kind @param {Record<string, any>} options
 * @param {string} tensor the one that is shown @returns {Snippets} */
export function inspectionSnippets(state, kind, options, tensor) {
  const run = /** @type {Run} */ (current(state));
  const call = callOf(state, requestOf(run), run.inputs);
  const given = Object.keys(options).length ? `, options=${python(options)}` : '';
  const pairs = Object.entries(options).map(
    ([name, value]) => ` ${quoted(`${name}=${Array.isArray(value) ? value.join(',') : value}`)}`,
  );
  const file = `${kind}.safetensors`;
  const chosen = pairs.length ? ` --options${pairs.join('')}` : '';
  return {
    python: `${sources(call)}${script(
      state,
      `found = inspect(pipe, ${python(kind)}, ${python(call.prompt)}${given}${keywords(call)})
array = found[${python(tensor)}]`,
      'from diffuscope.lens.inspect import inspect',
    )}`,
    cli: `${sources(call)}${branchFile(call)}${command(state, 'inspect', call, ` --kind ${kind}${chosen} --out ${file}`)}`,
    http: `${TOKEN}${fetched('inspections', json(body(call, { kind, options })), 'inspections/$JOB/tensors', file)}`,
  };
}

/** The image of the run on show; of a branch one request, which holds that of the run that it left.
 * @param {State} state @returns {Snippets|null} */
export function imageSnippets(state) {
  const run = current(state);
  if (!run) return null;
  const request = wholeRequest(run);
  const call = callOf(state, request, run.inputs);
  return {
    python: `${sources(call)}${script(
      state,
      `result = pipe(${python(call.prompt)}${keywords(call)})
result.save("image.png")
array = np.asarray(result.images[0])`,
      'import numpy as np',
    )}`,
    cli: `${sources(call)}${commands(state, call)}`,
    http: `${TOKEN}${fetched('jobs', json(body(call)), 'jobs/$JOB/images/0.png', 'image.png')}`,
  };
}

/** The commands of an image. @param {State} state @param {Call} call */
function commands(state, call) {
  const branch = call.options.find(([name]) => name === 'branch')?.[1];
  // A branch of a branch, or of painted latents, is in a file.
  if (!branch || branch.x || branch.request.branch)
    return `${branchFile(call)}${command(state, 'generate', call, ' --out image.png')}`;
  const { prompt, ...before } = branch.request;
  const own = Object.fromEntries(call.options);
  before.seed ??= own.seed; // it may stand in either request
  const differs = [['prompt', call.prompt], ...call.options].filter(
    ([name, value]) => !['branch', 'seed'].includes(name) && JSON.stringify(value) !== JSON.stringify({ prompt, ...before }[name]),
  );
  const first = { ...call, prompt, options: Object.entries(before) };
  return `${command(state, 'generate', first, ' --out before.png')}
diffuscope branch before.png --step ${branch.step}${flags({ ...call, options: /** @type {any} */ (differs) })}${opens(state, call)} --out image.png${noteOf(state)}`;
}

/** The images of a grid, row by row. @param {State} state
 * @param {{x: string, y: string, xValues: any[], yValues: any[], base: any, inputs: Record<string, string>}} grid
 * @returns {Snippets} */
export function gridSnippets(state, { x, y, xValues, yValues, base, inputs }) {
  const { [x]: _, [y]: __, ...shared } = base;
  const call = callOf(state, shared, inputs);
  const { prompt = null } = shared; // none where it is an option of the grid
  const cells = yValues.flatMap((down) => xValues.map((across) => ({ [y]: down, [x]: across })));
  const bodies = cells.map((cell) => JSON.stringify(body({ ...call, options: [...call.options, ...Object.entries(cell)] })));
  const flag = (/** @type {string} */ name, /** @type {string} */ value) =>
    name === 'prompt' ? ` "$${value}"` : ` --${(FLAGS[name] ?? name).replaceAll('_', '-')} "$${value}"`;
  const shown = [y, x].filter((name) => name !== 'prompt').map((name) => `, ${name}=${name}`).join('');
  return {
    python: `${sources(call)}${script(
      state,
      `images = [
    pipe(${prompt === null ? 'prompt' : python(prompt)}${keywords(call)}${shown}).images[0]
    for ${y} in ${python(yValues)}
    for ${x} in ${python(xValues)}
]
array = np.stack([np.asarray(image) for image in images])`,
      'import numpy as np',
    )}`,
    cli: `${sources(call)}for down in ${yValues.map(quoted).join(' ')}; do
  for across in ${xValues.map(quoted).join(' ')}; do
    diffuscope generate${prompt === null ? '' : ` ${quoted(prompt)}`}${flag(y, 'down')}${flag(x, 'across')}${flags(call)}${opens(state, { ...call, prompt: [prompt, xValues, yValues] })} --out cell.png${noteOf(state)}
  done
done  # cell.png, cell-2.png and so on`,
    http: `${TOKEN}while read -r BODY; do
${fetched('jobs', '"$BODY"', 'jobs/$JOB/images/0.png', 'cell-$((N = ${N:-0} + 1)).png')}
done <<'END'
${bodies.join('\n')}
END`,
  };
}

/** The noise levels of the run on show. @param {State} state @returns {Snippets|null} */
export function levelSnippets(state) {
  const run = current(state);
  if (!run) return null;
  const call = callOf(state, requestOf(run), run.inputs);
  const code = `pipe.steps(${python(call.prompt)}${keywords(call)}).levels.sigmas`;
  const { request } = body(call);
  return {
    python: `${sources(call)}${script(state, `array = ${code}`)}`,
    cli: `${sources(call)}${oneLine(state, `list(${code})`)}`,
    http: `${TOKEN}${curl('plan', json({ request, image: Boolean(run.inputs.image) }))}`,
  };
}

/** How far the run on show is from another one at each step. @param {State} state @param {Run|undefined} against
 * @returns {Snippets|null} */
export function differenceSnippets(state, against) {
  const runs = [current(state), against];
  if (!runs[0] || !runs[1]) return null;
  const [one, other] = ['one', 'other'].map((name, k) => {
    const run = /** @type {Run} */ (runs[k]);
    const call = callOf(state, requestOf(run), run.inputs, `${name}-`);
    const file = `${name}.safetensors`;
    return {
      python: `${sources(call)}${name} = inspect(pipe, "steps", ${python(call.prompt)}${keywords(call)})["x0"]`,
      cli: `${sources(call)}${branchFile(call)}${command(state, 'inspect', call, ` --kind steps --out ${file}`)}`,
      http: fetched('inspections', json(body(call, { kind: 'steps' })), 'inspections/$JOB/tensors', file),
    };
  });
  return {
    python: script(state, `${one.python}\n${other.python}\narray = one - other`, 'from diffuscope.lens.inspect import inspect'),
    cli: `${one.cli}\n${other.cli}`,
    http: `${TOKEN}${one.http}\n${other.http}`,
  };
}

/** The spread of a tensor's numbers. @param {State} state @param {string} tensor @returns {Snippets} */
export function spreadSnippets(state, tensor) {
  const code = `histogram(pipe, ${python(tensor)})["counts"]`;
  const line = 'from diffuscope.lens.modules import histogram';
  return {
    python: script(state, `array = ${code}`, line),
    cli: oneLine(state, code, `${line}; `),
    http: `${TOKEN}${curl(`modules/${tensor}/histogram`, null)}`,
  };
}

/** The tokens of a text. @param {State} state @param {string} text @returns {Snippets} */
export function textSnippets(state, text) {
  const code = `pipe.tokenizer.encode(${python(text)})[0].tolist()`;
  return {
    python: script(state, `array = ${code}`),
    cli: oneLine(state, code),
    http: `${TOKEN}${curl('text', json({ prompt: text, nearest: 6 }))}`,
  };
}
