import {$, $$, about, ask, element, newest, open, show, tab} from './common.js';
import {mixer} from './mixer.js';
import {sliders} from './sliders.js';

export const thumbnail = (row, image) => element('button', {title: `image ${row}`, onclick: () => { open('map'); map.choose(row); }},
  element('img', {src: image, alt: `image ${row}`}));

export const map = {
  sheets: [], scale: 1, x: 0.5, y: 0.5, places: [], found: null, chosen: null, between: null,
  start() {
    this.canvas = $('#map canvas');
    [this.places, this.maps] = [about.map, {pca: about.map}];
    this.position = new Map(about.rows.map((row, i) => [row, i]));
    let from = null, dragged = false;
    this.canvas.onpointerdown = event => { [from, dragged] = [event, false]; this.canvas.setPointerCapture(event.pointerId); };
    this.canvas.onpointermove = event => {
      const [dx, dy] = from ? [event.offsetX - from.offsetX, event.offsetY - from.offsetY] : [0, 0];
      if (!from || (!dragged && Math.hypot(dx, dy) < 4)) return;
      [from, dragged] = [event, true];
      this.pan(dx, dy);
    };
    this.canvas.onpointerup = event => { if (!dragged) this.click(event.offsetX, event.offsetY); from = null; };
    this.canvas.onwheel = event => { event.preventDefault(); this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); };
    this.canvas.onkeydown = event => {
      const [x, y] = [this.width / 2, this.height / 2];
      const act = {ArrowLeft: () => this.pan(40, 0), ArrowRight: () => this.pan(-40, 0), ArrowUp: () => this.pan(0, 40),
        ArrowDown: () => this.pan(0, -40), '+': () => this.zoom(1.3, x, y), '-': () => this.zoom(1 / 1.3, x, y), Enter: () => this.click(x, y)}[event.key];
      if (act) { event.preventDefault(); act(); }
    };
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    for (const button of $$('[data-map]')) button.onclick = () => this.use(button.dataset.map);
    $('#find').onsubmit = event => { event.preventDefault(); this.find(event.target.elements.text.value.trim()); };
    $('[data-map=pca]').setAttribute('aria-pressed', true);
    this.load();
    this.poll();
  },
  async load() {  // one after another: what is asked for in between does not wait for all of them
    for (const src of about.sheets) {
      const sheet = element('img', {src});
      await sheet.decode();
      this.sheets.push(sheet);
      this.draw();
    }
  },
  async poll() {
    const answer = await ask('map');
    if (!answer?.map) return setTimeout(() => this.poll(), 2000);
    this.maps.tsne = answer.map;
    Object.assign($('[data-map=tsne]'), {disabled: false, textContent: 't-SNE'});
  },
  use(name) {  // the images move smoothly to their new places
    for (const button of $$('[data-map]')) button.setAttribute('aria-pressed', button.dataset.map === name);
    const [start, from, to] = [performance.now(), this.places, this.maps[name]], step = now => {
      const part = Math.min(1, Math.max(0, (now - start) / 700)), eased = part * part * (3 - 2 * part);
      this.places = part === 1 ? to : from.map(([x, y], i) => [x + eased * (to[i][0] - x), y + eased * (to[i][1] - y)]);
      this.draw();
      if (part < 1) requestAnimationFrame(step);
    };
    this.between = null;
    step(start);
  },
  opened() { this.resize(); },
  resize() {
    [this.width, this.height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    [this.canvas.width, this.canvas.height] = [this.width * devicePixelRatio, this.height * devicePixelRatio];
    this.draw();
  },
  get unit() { return 0.92 * Math.min(this.width, this.height) * this.scale; },
  get size() { return Math.min(2 * about.tile, (about.rows.length > 400 ? 16 : 28) * Math.pow(this.scale, 0.75)); },
  screen([x, y]) { return [this.width / 2 + (x - this.x) * this.unit * this.stretch, this.height / 2 + (y - this.y) * this.unit]; },
  get stretch() { return Math.max(1, 0.85 * this.width / this.height); },
  pan(dx, dy) { this.x -= dx / this.unit / this.stretch; this.y -= dy / this.unit; this.draw(); },
  zoom(factor, x, y) {
    factor = Math.min(40, Math.max(0.7, this.scale * factor)) / this.scale;
    this.pan((x - this.width / 2) * (1 / factor - 1), (y - this.height / 2) * (1 / factor - 1));
    this.scale *= factor;
    this.draw();
  },
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const context = this.canvas.getContext('2d'), {size} = this;
      const accent = getComputedStyle(document.body).getPropertyValue('--accent');
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      [context.strokeStyle, context.fillStyle, context.lineWidth] = [accent, accent, 2];
      for (const i of this.order) {
        const [x, y] = this.screen(this.places[i]);
        if (x < -size || y < -size || x > this.width + size || y > this.height + size) continue;
        context.globalAlpha = this.found && !this.found.has(about.rows[i]) ? 0.12 : 1;
        this.drawTile(context, i, x - size / 2, y - size / 2, size);
      }
      context.globalAlpha = 1;
      if (this.chosen !== null && this.position.has(this.chosen)) {
        const [x, y] = this.screen(this.places[this.position.get(this.chosen)]);
        context.strokeRect(x - size / 2 - 3, y - size / 2 - 3, size + 6, size + 6);
      }
      if (this.between) {
        const [x, y] = this.screen(this.between.place);
        context.beginPath();
        for (const i of this.between.near) { context.moveTo(x, y); context.lineTo(...this.screen(this.places[i])); }
        context.stroke();
        context.fillRect(x - 4, y - 4, 8, 8);
      }
    });
  },
  // Draw the thumbnail of image i, or a square until it is there.
  drawTile(context, i, x, y, size) {
    const sheet = this.sheets[i >> 8], place = [i & 15, i >> 4 & 15].map(number => number * about.tile);
    if (sheet) return context.drawImage(sheet, ...place, about.tile, about.tile, x, y, size, size);
    context.fillStyle = '#8886';
    context.fillRect(x, y, size, size);
  },
  // The images as they are drawn: those that were found over the others, the chosen one on top.
  get order() {
    const rank = i => about.rows[i] === this.chosen ? 2 : this.found?.has(about.rows[i]) ? 1 : 0;
    return this.places.map((_, i) => i).sort((a, b) => rank(a) - rank(b) || a - b);
  },
  click(x, y) {
    const half = Math.max(6, this.size / 2), offsets = this.places.map(place => { const [px, py] = this.screen(place); return [px - x, py - y]; });
    const hit = this.order.reverse().find(i => offsets[i].every(offset => Math.abs(offset) <= half));
    if (hit !== undefined) return this.choose(about.rows[hit]);
    const near = offsets.map((offset, i) => [Math.hypot(...offset), i]).sort((a, b) => a[0] - b[0]).slice(0, 8);
    const total = near.reduce((sum, [distance]) => sum + 1 / distance, 0);
    const place = [this.x + (x - this.width / 2) / this.unit / this.stretch, this.y + (y - this.height / 2) / this.unit];
    [this.chosen, this.between] = [null, {place, near: near.map(pair => pair[1])}];
    this.draw();
    for (const part of ['#chosen', '#neighbours']) $(part).replaceChildren();
    this.decode(near.map(([, i]) => String(about.rows[i])), near.map(([distance]) => +(1 / distance / total).toFixed(4)));
  },
  decode: newest(async (names, weights) => show('map', await ask('picture', {tab, names, weights, path: 'line'}))),
  choose: newest(async row => {
    const image = await ask(`image/${row}`);
    if (!image) return;
    [map.chosen, map.between] = [row, null];
    map.draw();
    show('map', image.made);
    const name = String(row), text = element('div', {}, element('b', {textContent: `image ${row}`}), ` ${image.key || ''}`,
      element('p', {className: 'hint', textContent: image.attributes.join(', ')}),
      element('button', {textContent: 'Mix it', onclick: () => mixer.add(name)}), ' ',
      element('button', {textContent: 'Move it', onclick: () => { $('#start input').value = name; sliders.reset(); open('sliders'); }}));
    $('#chosen').replaceChildren(...(image.image ? [element('img', {src: image.image, alt: 'training image'})] : []), text);
    $('#neighbours').replaceChildren();
    const tiles = image.neighbours.map(other => thumbnail(other.row, other.image));
    if (tiles.length) $('#neighbours').append(element('h2', {textContent: 'Nearest by code'}), element('div', {className: 'tiles'}, ...tiles));
  }),
  async find(text) {
    const answer = text ? await ask(`find?${new URLSearchParams({text})}`) : null, rows = answer ? answer.rows : [];
    this.found = answer ? new Set(rows) : null;
    $('#found').textContent = answer ? `${rows.length} found, ${rows.filter(row => this.position.has(row)).length} on the map` : '';
    if (rows.length === 1) this.choose(rows[0]);
    this.draw();
  },
};
