import {$, $$, about, ask, element, label, newest, open, remember, show, tab, workText} from './common.js';
import {legend} from './legend.js';

export const thumbnail = (row, image, caption = '') => element('button', {title: `image ${row}`, onclick: () => { open('map'); map.choose(row); }},
  element('img', {src: image, alt: `image ${row}`}), caption);

const APART = 0.7;  // of an image's side: what lies closer to an image that is drawn is left out

const apart = (first, second) => Math.hypot(first[0] - second[0], first[1] - second[1]);

export const map = {
  sheets: [], scale: 1, x: 0.5, y: 0.5, places: [], found: null, chosen: null, hovered: null, seen: [], between: null, pointers: new Map(),
  start() {
    this.canvas = $('#plane');
    [this.places, this.maps] = [about.map, {pca: about.map}];
    this.position = new Map(about.rows.map((row, i) => [row, i]));
    const {dimensions, code_side: side} = about;
    $('#map .dimensions').textContent = side > 1 ? `${side} × ${side} places of ${dimensions / side ** 2} numbers` : `${dimensions} numbers`;
    $('#map .number').textContent = about.num_images.toLocaleString('en');
    const [drawn, all] = [about.rows.length, about.num_images].map(number => number.toLocaleString('en'));
    if (drawn !== all) $('#drawn-of').textContent = `${drawn} of ${all} images are drawn, chosen by chance.`;
    legend.start();
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    for (const button of $$('[data-map]')) button.onclick = () => this.use(button.dataset.map);
    $('#whole').onclick = () => this.fit(this.places);
    $('#stop-tsne').onclick = () => this.compute(false);
    $('#find').onsubmit = event => { event.preventDefault(); this.find(event.target.elements.text.value.trim()); };
    $('[data-map=pca]').setAttribute('aria-pressed', true);
    this.load();
    this.poll();
  },
  listen() {
    const {canvas, pointers} = this, leave = event => { pointers.delete(event.pointerId); this.hover(null); };
    let dragged = false;
    canvas.onpointerdown = event => {
      if (!pointers.size) dragged = false;
      pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = event => {
      const at = [event.offsetX, event.offsetY], from = pointers.get(event.pointerId);
      if (!from) return this.hover(event.pointerType === 'mouse' ? this.hit(...at) : null, at);
      if (!dragged && apart(at, from) < 4) return;
      dragged = true;
      this.hover(null);
      pointers.set(event.pointerId, at);
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1], share = other ? 0.5 : 1;
      this.pan(share * (at[0] - from[0]), share * (at[1] - from[1]));
      if (other) this.zoom(apart(at, other) / (apart(from, other) || 1), (at[0] + other[0]) / 2, (at[1] + other[1]) / 2);
    };
    canvas.onpointerup = event => {
      if (pointers.size === 1 && !dragged) this.click(event.offsetX, event.offsetY);
      leave(event);
    };
    canvas.onpointercancel = canvas.onpointerleave = leave;
    canvas.onwheel = event => { event.preventDefault(); this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); };
    canvas.onfocus = canvas.onblur = () => this.draw();
    canvas.onkeydown = event => {
      const [x, y] = [this.width / 2, this.height / 2];
      const act = {ArrowLeft: () => this.pan(40, 0), ArrowRight: () => this.pan(-40, 0), ArrowUp: () => this.pan(0, 40),
        ArrowDown: () => this.pan(0, -40), '+': () => this.zoom(1.3, x, y), '-': () => this.zoom(1 / 1.3, x, y), 0: () => this.fit(this.places),
        Enter: () => this.click(x, y)}[event.key];
      if (act) { event.preventDefault(); act(); }
    };
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
    const button = $('[data-map=tsne]'), work = answer?.work;
    $('#stop-tsne').hidden = !work;
    if (answer && !answer.map) {
      Object.assign(button, {disabled: !!work, textContent: !work ? 'compute t-SNE' : work.what ? workText(work) : 't-SNE…'});
    }
    if (!answer?.map) return answer && !work ? null : setTimeout(() => this.poll(), 1000);
    this.maps.tsne = answer.map;
    Object.assign(button, {disabled: false, textContent: 't-SNE'});
  },
  async compute(wanted) {
    await ask('tsne', {wanted});
    this.poll();
  },
  use(name) {  // the images move smoothly to their new places
    if (!this.maps[name]) return this.compute(true);
    for (const button of $$('[data-map]')) button.setAttribute('aria-pressed', button.dataset.map === name);
    const [start, from, to] = [performance.now(), this.places, this.maps[name]], step = now => {
      const part = Math.min(1, Math.max(0, (now - start) / 700)), eased = part * part * (3 - 2 * part);
      this.places = part === 1 ? to : from.map(([x, y], i) => [x + eased * (to[i][0] - x), y + eased * (to[i][1] - y)]);
      this.draw();
      if (part < 1) requestAnimationFrame(step);
    };
    this.between = null;
    this.fit(to);
    step(start);
  },
  opened() { this.resize(); },
  // The image, or the mean of images, that the address says; without any the first image.
  restore({image, names, weights}) {
    if (names && weights) this.decode(names.split(' '), weights.split(' ').map(Number));
    else this.choose(/^\d+$/.test(image) ? Number(image) : about.rows[0]);
  },
  resize() {
    const first = !this.width;
    [this.width, this.height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    [this.canvas.width, this.canvas.height] = [this.width * devicePixelRatio, this.height * devicePixelRatio];
    if (first && this.width) this.fit(this.places);
    this.draw();
  },
  get unit() { return 0.92 * Math.min(this.width, this.height) * this.scale; },
  // Pixels of an image, and of what is drawn: a dot in the colour of the legend where images are small.
  get size() { return Math.min(2 * about.tile, (about.rows.length > 400 ? 16 : 28) * Math.pow(Math.max(this.scale, 0.7), 0.75)); },
  get dots() { return legend.numbers !== null && this.size < 24; },
  get drawn() { return this.dots ? 10 : this.size; },
  screen([x, y]) { return [this.width / 2 + (x - this.x) * this.unit * this.stretch, this.height / 2 + (y - this.y) * this.unit]; },
  get stretch() { return Math.max(1, 0.85 * this.width / this.height); },
  pan(dx, dy) { this.x -= dx / this.unit / this.stretch; this.y -= dy / this.unit; this.draw(); },
  zoom(factor, x, y) {
    factor = Math.min(40, Math.max(0.5, this.scale * factor)) / this.scale;
    this.pan((x - this.width / 2) * (1 / factor - 1), (y - this.height / 2) * (1 / factor - 1));
    this.scale *= factor;
    this.draw();
  },
  fit(places) {  // bring these into view
    this.hover(null);
    const [low, high] = [Math.min, Math.max].map(extreme => [0, 1].map(axis => places.reduce((value, place) => extreme(value, place[axis]), places[0][axis])));
    const room = [this.width / this.stretch, this.height].map((pixels, axis) => (pixels - 60) / (high[axis] - low[axis] || 1e-9));
    [this.x, this.y] = [0, 1].map(axis => (low[axis] + high[axis]) / 2);
    this.scale = Math.min(4, Math.max(0.5, Math.min(...room) / (this.unit / this.scale)));
    this.draw();
  },
  draw() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      const context = this.canvas.getContext('2d'), accent = getComputedStyle(document.body).getPropertyValue('--accent');
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      [context.strokeStyle, context.fillStyle, context.lineWidth] = [accent, accent, 2];
      this.seen = this.uncovered();
      for (const i of this.seen) this.drawImage(context, i);
      if (this.hovered !== null) this.drawImage(context, this.hovered);
      [context.strokeStyle, context.fillStyle] = [accent, accent];
      if (this.between) {
        const [x, y] = this.screen(this.between.place);
        context.beginPath();
        for (const i of this.between.near) { context.moveTo(x, y); context.lineTo(...this.screen(this.places[i])); }
        context.stroke();
        context.fillRect(x - 4, y - 4, 8, 8);
      }
      if (this.canvas.matches(':focus-visible')) {  // the middle, where Enter clicks
        for (const [width, height] of [[18, 2], [2, 18]]) context.fillRect((this.width - width) / 2, (this.height - height) / 2, width, height);
      }
    });
  },
  // The images to draw, from below to the top: of images that would mostly cover each other only the topmost.
  uncovered() {
    const gap = this.dots ? 0 : APART * this.size, taken = new Map(), order = [];
    for (const rank of [0, 1, 2]) for (let i = 0; i < this.places.length; i++) if (this.rank(i) === rank) order.push(i);
    if (!gap) return order;
    const free = i => {
      const place = this.screen(this.places[i]), [column, line] = place.map(value => Math.floor(value / gap));
      for (const x of [-1, 0, 1]) for (const y of [-1, 0, 1]) {
        const other = taken.get(`${column + x} ${line + y}`);
        if (other && place.every((value, axis) => Math.abs(value - other[axis]) < gap)) return false;
      }
      return taken.set(`${column} ${line}`, place);
    };
    return order.reverse().filter(free).reverse();
  },
  // Images that were left out lie below, the chosen one on top.
  rank(i) { return about.rows[i] === this.chosen ? 2 : legend.hides(i) || this.found && !this.found.has(about.rows[i]) ? 0 : 1; },
  drawImage(context, i) {
    const [x, y] = this.screen(this.places[i]), size = this.drawn, [left, top] = [x - size / 2, y - size / 2];
    if (x < -size || y < -size || x > this.width + size || y > this.height + size) return;
    context.globalAlpha = this.rank(i) ? 1 : 0.12;
    this.drawTile(context, i, left, top, size);
    context.globalAlpha = 1;
    if (this.rank(i) === 2 || i === this.hovered) context.strokeRect(left - 2, top - 2, size + 4, size + 4);
  },
  // Draw the thumbnail of image i, framed in the colour of the legend, or a square until it is there.
  drawTile(context, i, x, y, size) {
    const sheet = this.sheets[i >> 8], place = [i & 15, i >> 4 & 15].map(number => number * about.tile), frame = legend.numbers ? Math.max(2, size / 12) : 0;
    context.fillStyle = legend.numbers ? legend.colour(i) : '#8886';
    if (!sheet || legend.numbers) context.fillRect(x, y, size, size);
    if (sheet && !(legend.numbers && size < 24)) context.drawImage(sheet, ...place, about.tile, about.tile, x + frame, y + frame, size - 2 * frame, size - 2 * frame);
  },
  // A button with the thumbnail of image i, which chooses it.
  tile(i, caption) {
    const row = about.rows[i], canvas = element('canvas', {width: about.tile, height: about.tile});
    this.drawTile(canvas.getContext('2d'), i, 0, 0, about.tile);
    return element('button', {title: `image ${row}`, onclick: () => this.choose(row)}, canvas, caption);
  },
  // The image that is seen at a point of the canvas; null between images.
  hit(x, y) {
    const half = this.drawn / 2;
    return this.seen.findLast(i => {
      const [px, py] = this.screen(this.places[i]);
      return Math.abs(px - x) <= half && Math.abs(py - y) <= half;
    }) ?? null;
  },
  hover(i, at) {  // the image under the pointer is shown larger, beside the pointer
    $('#hover').hidden = i === null;
    if (i !== null) {
      const [x, y] = at, canvas = $('#hover canvas');
      if (i !== this.hovered) {
        canvas.width = canvas.height = about.tile;
        this.drawTile(canvas.getContext('2d'), i, 0, 0, about.tile);
        $('#hover figcaption').textContent = [`image ${about.rows[i]}`, ...legend.text(i)].join(', ');
      }
      Object.assign($('#hover').style, {left: `${x > this.width / 2 ? x - 150 : x + 24}px`, top: `${Math.max(0, Math.min(y - 60, this.height - 160))}px`});
    }
    if (i !== this.hovered) { this.hovered = i; this.draw(); }
  },
  click(x, y) {
    const hit = this.hit(x, y);
    if (hit !== null) return this.choose(about.rows[hit]);
    const near = this.places.map((place, i) => [apart(this.screen(place), [x, y]), i]).sort((a, b) => a[0] - b[0]).slice(0, 8);
    const total = near.reduce((sum, [distance]) => sum + 1 / distance, 0);
    const place = [this.x + (x - this.width / 2) / this.unit / this.stretch, this.y + (y - this.height / 2) / this.unit];
    [this.chosen, this.between] = [null, {place, near: near.map(pair => pair[1])}];
    this.draw();
    this.decode(near.map(([, i]) => String(about.rows[i])), near.map(([distance]) => +(1 / distance / total).toFixed(4)));
  },
  decode: newest(async (names, weights) => {
    const made = await ask('picture', {tab, names, weights, path: 'line'});
    if (!made) return;
    remember('map', {names: names.join(' '), weights: weights.join(' ')});
    show('map', made, 'what the generator makes of the mean of eight codes');
    for (const part of ['#map .facts', '#neighbours']) $(part).replaceChildren();
  }),
  choose: newest(async row => {
    const image = await ask(`image/${row}`);
    if (!image) return;
    [map.chosen, map.between] = [row, null];
    map.draw();
    show('map', image.made, 'what the generator makes of its code', about.has_images ? {image: image.image, caption: 'training image'} : null);
    remember('map', {image: row});
    const quality = image.psnr === undefined ? '' : `PSNR ${image.psnr.toFixed(1)} dB`;
    const labels = image.attributes.map(each => { const [attribute, value] = each.split(/=(.*)/s); return element('span', {}, `${attribute} `, label(attribute, value)); });
    $('#map .facts').replaceChildren(element('p', {}, element('b', {textContent: `image ${row}`}), ` ${image.key} ${quality}`), element('p', {className: 'labels'}, ...labels));
    const tiles = image.neighbours.map(other => thumbnail(other.row, other.image));
    $('#neighbours').replaceChildren(element('h2', {textContent: 'Nearest by code'}), element('div', {className: 'tiles'}, ...tiles));
  }),
  async find(text) {
    const answer = text ? await ask(`find?${new URLSearchParams({text})}`) : null, rows = answer ? answer.rows : [];
    const places = rows.filter(row => this.position.has(row)).map(row => this.places[this.position.get(row)]);
    this.found = answer ? new Set(rows) : null;
    $('#found').textContent = answer ? `${rows.length} found, ${places.length} on the map` : '';
    if (rows.length === 1) this.choose(rows[0]);
    if (places.length) this.fit(places);
    this.draw();
  },
};
