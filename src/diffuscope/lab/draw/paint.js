// <lab-paint>: a picture with a mask painted over it; the mask that it tells is white in the masked area. With the keyboard the brush moves by
// the arrow keys and paints with the space bar.

const SIDE = 512; // pixels of the mask's longer side

export class Paint extends HTMLElement {
  constructor() {
    super();
    this.image = document.createElement('img');
    this.image.alt = '';
    this.canvas = document.createElement('canvas');
    this.cursor = document.createElement('i');
    /** The brush's diameter as a share of the picture's longer side. */
    this.brush = 0.12;
    /** @type {[number, number]} */
    this.at = [0.5, 0.5];
    this.painted = false;
    this._source = '';
    /** @type {[number, number]|null} */
    this._last = null;
  }

  connectedCallback() {
    if (this._ready) return;
    this._ready = true;
    this.append(this.image, this.canvas, this.cursor);
    this.tabIndex = 0;
    this.setAttribute('role', 'application');
    this.image.onload = () => {
      const { naturalWidth: width, naturalHeight: height } = this.image;
      const scale = SIDE / Math.max(width, height);
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    };
    this.addEventListener('pointerdown', (event) => {
      event.preventDefault();
      this.focus();
      this.setPointerCapture(event.pointerId);
      this._last = null;
      this._stroke(this._where(event), event.button === 2 || event.shiftKey);
    });
    this.addEventListener('pointermove', (event) => {
      this._move(this._where(event));
      if (event.buttons) this._stroke(this._where(event), event.buttons === 2 || event.shiftKey);
    });
    this.addEventListener('pointerup', () => this._tell());
    this.addEventListener('contextmenu', (event) => event.preventDefault());
    this.addEventListener('keydown', (event) => this._key(event));
  }

  /** @param {string} url */
  set source(url) {
    if (this._source === url) return;
    this._source = url;
    this.painted = false;
    this.image.src = url;
  }

  /** @param {string} sentence */
  set label(sentence) {
    this.setAttribute('aria-label', `${sentence} Arrow keys move the brush, space paints, shift and space erase.`);
  }

  /** Take the mask away. */
  clear() {
    this._context().clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.painted = false;
    this._tell();
  }

  _context() {
    return /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext('2d'));
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  _where(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  /** @param {[number, number]} at */
  _move(at) {
    this.at = at;
    this.cursor.style.left = `${at[0] * 100}%`;
    this.cursor.style.top = `${at[1] * 100}%`;
    this.cursor.style.width = `${this.brush * 100}%`;
  }

  /** @param {[number, number]} at @param {boolean} erase */
  _stroke(at, erase) {
    const context = this._context();
    const { width, height } = this.canvas;
    const from = this._last ?? at;
    context.globalCompositeOperation = erase ? 'destination-out' : 'source-over';
    context.strokeStyle = '#e0561b';
    context.lineWidth = this.brush * Math.max(width, height);
    context.lineCap = 'round';
    context.beginPath();
    context.moveTo(from[0] * width, from[1] * height);
    context.lineTo(at[0] * width + 0.01, at[1] * height);
    context.stroke();
    this._last = at;
    this.painted = true;
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (!move && event.key !== ' ') return;
    event.preventDefault();
    const [x, y] = move ?? [0, 0];
    const by = this.brush / 2;
    this._move([Math.max(0, Math.min(1, this.at[0] + x * by)), Math.max(0, Math.min(1, this.at[1] + y * by))]);
    if (event.key === ' ') {
      this._last = null;
      this._stroke(this.at, event.shiftKey);
      this._tell();
    }
  }

  /** Say that the mask has changed: a PNG of it, or null where nothing is painted. */
  _tell() {
    const { width, height } = this.canvas;
    const drawn = this.painted && this._context().getImageData(0, 0, width, height).data.some((value) => value > 0);
    if (!drawn) return void this.dispatchEvent(new CustomEvent('mask', { detail: null }));
    const mask = document.createElement('canvas');
    mask.width = width;
    mask.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (mask.getContext('2d'));
    context.drawImage(this.canvas, 0, 0);
    context.globalCompositeOperation = 'source-in';
    context.fillStyle = '#fff';
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = 'destination-over';
    context.fillStyle = '#000';
    context.fillRect(0, 0, width, height);
    mask.toBlob((blob) => this.dispatchEvent(new CustomEvent('mask', { detail: blob })));
  }
}

customElements.define('lab-paint', Paint);
