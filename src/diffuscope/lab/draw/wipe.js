// <lab-wipe>: two pictures over one another, with a line between them that can be dragged.

export class Wipe extends HTMLElement {
  constructor() {
    super();
    this.share = 0.5;
    this.layers = [document.createElement('canvas'), document.createElement('canvas')];
    this.line = document.createElement('i');
    /** What is drawn now: addresses or pictures. @type {any[]} */
    this._drawn = [];
  }

  connectedCallback() {
    if (this._ready) return;
    this._ready = true;
    this.append(...this.layers, this.line);
    this.tabIndex = 0;
    this.setAttribute('role', 'slider');
    this.setAttribute('aria-valuemin', '0');
    this.setAttribute('aria-valuemax', '100');
    const drag = (/** @type {PointerEvent} */ event) => {
      if (event.type === 'pointermove' && !event.buttons) return;
      if (event.type === 'pointerdown') this.setPointerCapture(event.pointerId);
      const box = this.getBoundingClientRect();
      this._move((event.clientX - box.left) / box.width);
    };
    this.addEventListener('pointerdown', drag);
    this.addEventListener('pointermove', drag);
    this.addEventListener('keydown', (event) => {
      const by = { ArrowLeft: -0.05, ArrowRight: 0.05, Home: -1, End: 1 }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      this._move(this.share + by);
    });
    this._move(this.share);
  }

  /** @param {string} sentence */
  set label(sentence) {
    this.setAttribute('aria-label', sentence);
  }

  /** @param {string[]|null} urls */
  set urls(urls) {
    if (urls) urls.forEach((url, k) => this._load(url, k));
  }

  /** @param {(Picture|undefined)[]|null} pictures */
  set pictures(pictures) {
    if (pictures) pictures.forEach((picture, k) => this._put(picture, k));
  }

  /** @param {string} url @param {number} k */
  _load(url, k) {
    if (this._drawn[k] === url) return;
    this._drawn[k] = url;
    const image = new Image();
    image.onload = () => {
      if (this._drawn[k] !== url) return;
      const canvas = this.layers[k];
      [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
      canvas.getContext('2d')?.drawImage(image, 0, 0);
      this.classList.remove('cells');
    };
    image.src = url;
  }

  /** @param {Picture|undefined} picture @param {number} k */
  _put(picture, k) {
    if (!picture || this._drawn[k] === picture) return;
    this._drawn[k] = picture;
    const canvas = this.layers[k];
    [canvas.width, canvas.height] = [picture.width, picture.height];
    const data = new ImageData(/** @type {any} */ (picture.rgba), picture.width, picture.height);
    canvas.getContext('2d')?.putImageData(data, 0, 0);
    this.classList.add('cells');
  }

  /** @param {number} share */
  _move(share) {
    this.share = Math.max(0, Math.min(1, share));
    const percent = Math.round(this.share * 100);
    this.layers[1].style.clipPath = `inset(0 0 0 ${percent}%)`;
    this.line.style.left = `${percent}%`;
    this.setAttribute('aria-valuenow', String(percent));
  }
}

customElements.define('lab-wipe', Wipe);
