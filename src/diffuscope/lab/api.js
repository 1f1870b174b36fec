// The server, as the page asks it: everything here can be asked with curl too.

const ROOT = '/api/v1';

/** An answer that is an error: its own words, the argument it is about, and what to do. */
export class ServerError extends Error {
  /** @param {number} status @param {string} message @param {string|null} argument */
  constructor(status, message, argument) {
    super(message);
    this.status = status;
    this.argument = argument;
  }
}

/** @param {string} path @param {RequestInit} [how] */
async function ask(path, how) {
  let answer;
  try {
    answer = await fetch(path.startsWith('/') ? path : `${ROOT}/${path}`, how);
  } catch {
    throw new ServerError(0, 'the server does not answer; start it again with diffuscope lab, and open the address that it prints', null);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => ({}));
  const said = body.error ?? {};
  throw new ServerError(answer.status, said.message ?? `the server answered ${answer.status}`, said.argument ?? null);
}

/** @param {string} path @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

/** @param {string} path @param {object} body @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function post(path, body, signal) {
  const headers = { 'Content-Type': 'application/json' };
  return (await ask(path, { method: 'POST', headers, body: JSON.stringify(body), signal })).json();
}

/** @param {string} path @param {Record<string, Blob>} files @returns {Promise<any>} */
export async function upload(path, files) {
  const body = new FormData();
  for (const [name, file] of Object.entries(files)) body.append(name, file);
  return (await ask(path, { method: 'POST', body })).json();
}

/** @param {string} path @returns {Promise<any>} */
export async function remove(path) {
  return (await ask(path, { method: 'DELETE' })).json();
}

/** An array of the server: float32, its shape in a header. @param {string} path @returns {Promise<Values>} */
export async function array(path) {
  const answer = await ask(path);
  const shape = (answer.headers.get('X-Shape') ?? '').split(',').map(Number);
  return { data: new Float32Array(await answer.arrayBuffer()), shape };
}

/** A file of the server. @param {string} path @returns {Promise<{buffer: ArrayBuffer, state: string}>} */
export async function bytes(path) {
  const answer = await ask(path);
  return { buffer: await answer.arrayBuffer(), state: answer.headers.get('X-State') ?? '' };
}

/** Milliseconds. */
const AGAIN = 2000;

const KINDS = ['queued', 'started', 'step', 'image', 'done', 'failed', 'cancelled'];

/**
 * Follow all jobs. The browser connects again by itself, and continues after the last event that it has seen; what was
 * before the first, or is forgotten, is told as "reset": one has to ask for the jobs. After an answer that is no stream,
 * such as 503, the browser gives up, and the page begins anew.
 * @param {(kind: string, event: any) => void} tell
 * @param {(offline: boolean) => void} connection
 */
export function follow(tell, connection) {
  const source = new EventSource(`${ROOT}/events?estimates=true`);
  for (const kind of ['ready', 'reset']) source.addEventListener(kind, () => tell('reset', {}));
  for (const kind of KINDS) source.addEventListener(kind, (event) => tell(kind, JSON.parse(event.data)));
  source.onopen = () => connection(false);
  source.onerror = () => {
    connection(true);
    if (source.readyState === EventSource.CLOSED) setTimeout(() => follow(tell, connection), AGAIN);
  };
}

/** Paths of what a job holds. */
export const paths = {
  /** @param {string} job @param {number} [image] */
  image: (job, image = 0) => `${ROOT}/pictures/${job}-${image}.png`,
  /** A picture that was sent in, or made. @param {string} id */
  picture: (id) => `${ROOT}/pictures/${id}.png`,
  /** A step's array, decoded by the VAE. @param {string} job @param {number} image @param {number} step
   * @param {string} kind */
  decoded: (job, image, step, kind) => `${ROOT}/jobs/${job}/images/${image}/steps/${step}/${kind}.png`,
  /** @param {string} job @param {number} image @param {number} step @param {string} kind */
  step: (job, image, step, kind) => `${ROOT}/jobs/${job}/images/${image}/steps/${step}/${kind}`,
};
