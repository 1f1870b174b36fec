// <lab-raster>: a small picture at any size, cell by cell. A position can be pointed at and selected in it, with the mouse
// or the arrow keys; it says the number there.

export class Raster extends HTMLElement {
  constructor() {
    super();
    /** @type {Picture|null} */
    this._picture = null;
    /** @type {[number, number]|null} */
    this._position = null;
    /** @type {[number, number]|null} */
    this._hover = null;
    /** Cells of the selection, where they are not the picture's pixels. @type {[number, number]|null} */
    this.cells = null;
    /** What is said of a cell. @type {((x: number, y: number) => string)|null} */
    this.read = null;
    /** Whether a position can be selected. */
    this.selects = false;
    /** Whether a drag, or the space bar, paints: each cell on the way is told by the event "paint". */
    this.paints = false;
    this.canvas = document.createElement('canvas');
    this.mark = document.createElement('i');
    this.mark.className = 'mark';
    this.said = document.createElement('output');
    this.mark.hidden = this.said.hidden = true;
  }

  connectedCallback() {
    if (!this.canvas.isConnected) this.append(this.canvas, this.mark, this.said);
    if (this._ready) return;
    this._ready = true;
    this.addEventListener('pointermove', (event) => this._point(event));
    this.addEventListener('pointerleave', () => this._setHover(null));
    this.addEventListener('pointerdown', (event) => {
      if (!this.selects || event.button !== 0) return;
      const at = this._at(event);
      if (this.paints) return this._paint(at);
      const same = this._position && at[0] === this._position[0] && at[1] === this._position[1];
      this._choose(same ? null : at);
    });
    this.addEventListener('keydown', (event) => this._key(event));
  }

  /** @param {Picture|null} picture */
  set picture(picture) {
    if (picture === this._picture) return;
    this._picture = picture;
    if (!picture) return;
    this.canvas.width = picture.width;
    this.canvas.height = picture.height;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext('2d'));
    context.putImageData(new ImageData(/** @type {any} */ (picture.rgba), picture.width, picture.height), 0, 0);
    this.canvas.style.aspectRatio = `${picture.width} / ${picture.height}`;
    this._draw();
  }

  /** @param {[number, number]|null} position the selected position, in cells */
  set position(position) {
    this._position = position;
    this._draw();
  }

  /** @param {string} sentence what the figure shows */
  set label(sentence) {
    this.setAttribute('aria-label', sentence);
    this.setAttribute('role', this.selects ? 'application' : 'img');
    if (this.selects) this.tabIndex = 0;
  }

  /** @returns {[number, number]} */
  _grid() {
    return this.cells ?? [this._picture?.width ?? 1, this._picture?.height ?? 1];
  }

  /** @param {PointerEvent} event @returns {[number, number]} */
  _at(event) {
    const box = this.canvas.getBoundingClientRect();
    const [width, height] = this._grid();
    const cell = (/** @type {number} */ share, /** @type {number} */ most) =>
      Math.max(0, Math.min(most - 1, Math.floor(share * most)));
    return [cell((event.clientX - box.left) / box.width, width), cell((event.clientY - box.top) / box.height, height)];
  }

  /** @param {PointerEvent} event */
  _point(event) {
    if (!this._picture) return;
    const at = this._at(event);
    if (event.buttons === 1 && this.selects && String(at) !== String(this._position))
      (this.paints ? this._paint : this._choose).call(this, at);
    this._setHover(at);
  }

  /** @param {[number, number]|null} at */
  _setHover(at) {
    if (String(at) === String(this._hover)) return;
    this._hover = at;
    this._draw();
    this.dispatchEvent(new CustomEvent('hover', { detail: at }));
  }

  /** @param {[number, number]} at */
  _paint(at) {
    this._choose(at);
    this.dispatchEvent(new CustomEvent('paint', { detail: at }));
  }

  /** @param {[number, number]|null} at */
  _choose(at) {
    this._position = at;
    this._draw();
    this.dispatchEvent(new CustomEvent('position', { detail: at, bubbles: true }));
  }

  /** @param {KeyboardEvent} event */
  _key(event) {
    if (!this.selects) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const [width, height] = this._grid();
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (event.key === 'Escape' && this._position) this._choose(null);
    if (event.key === ' ' && this.paints) {
      event.preventDefault();
      this._paint(this._position ?? [width >> 1, height >> 1]);
    }
    if (!move) return;
    event.preventDefault();
    const [x, y] = this._position ?? [width >> 1, height >> 1];
    this._choose([Math.max(0, Math.min(width - 1, x + move[0])), Math.max(0, Math.min(height - 1, y + move[1]))]);
  }

  _draw() {
    const at = this._hover ?? this._position;
    const marked = this._position ?? this._hover;
    this.mark.hidden = !marked || (!this.selects && !this._hover);
    if (marked) {
      const [width, height] = this._grid();
      this.mark.style.left = `${(100 * marked[0]) / width}%`;
      this.mark.style.top = `${(100 * marked[1]) / height}%`;
      this.mark.style.width = `${100 / width}%`;
      this.mark.style.height = `${100 / height}%`;
    }
    this.said.value = at && this.read ? this.read(at[0], at[1]) : '';
    this.said.hidden = !this.said.value;
  }
}

customElements.define('lab-raster', Raster);
