'use strict';
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const tab = String(Math.random()).slice(2);  // the server computes one picture at a time for each tab
let about, sheet;

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const say = text => Object.assign($('#message'), {textContent: text, hidden: !text});

// Ask the server. Without an answer null; a message says why, unless a newer position came.
async function ask(path, asked) {
  const options = asked === undefined ? {} : {method: 'POST', body: asked instanceof Blob ? asked : JSON.stringify(asked)};
  try {
    const response = await fetch(path, options);
    const answer = await response.json();
    if (response.ok) return answer;
    if (response.status !== 409) say(answer.message);
  } catch { say('the server does not answer: is it still running?'); }
  return null;
}

// Ask for something that takes a while.
async function wait(button, path, asked) {
  button.disabled = true;
  const answer = await ask(path, asked);
  button.disabled = false;
  return answer;
}

// Call `make` once the previous call has ended, with the newest arguments.
function newest(make) {
  let busy = false, next = null;
  return async (...wanted) => {
    next = wanted;
    if (busy) return;
    for (busy = true; next;) { const now = next; next = null; await make(...now); }
    busy = false;
  };
}

function bindCopy(box, command) {
  $('code', box).textContent = command;
  $('.copy', box).onclick = async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(command);
    else getSelection().selectAllChildren($('code', box));
    $('.copy', box).textContent = navigator.clipboard ? 'Copied' : 'Selected';
    setTimeout(() => { $('.copy', box).textContent = 'Copy'; }, 1200);
  };
}

// Show a picture with its command, and the field that saves its code.
function show(section, made) {
  if (!made) return;
  const place = $(`#${section} .made`);
  if (!place.firstElementChild) place.append($('#card').content.cloneNode(true));
  $('img', place).src = made.image;
  bindCopy(place, made.command);
  $('form', place).onsubmit = async event => {
    event.preventDefault();
    const saved = await ask('save', {name: event.target.elements.name.value, code: made.code});
    if (saved) say(`saved as ${saved.name}, which is a name of an image here, too; ${saved.command}`);
  };
}

function open(name) {
  for (const section of $$('main > section')) section.hidden = section.id !== name;
  for (const button of $$('nav button')) button.setAttribute('aria-selected', button.dataset.tab === name);
  history.replaceState(null, '', `#${name}`);
  if (name === 'map') map.resize();
  if (name === 'mix' && !mixer.names.length) mixer.begin();
  if (name === 'sliders' && !$('#sliders img')) sliders.move();
}

const thumbnail = (row, image) => element('button', {title: `image ${row}`, onclick: () => { open('map'); map.choose(row); }},
  element('img', {src: image, alt: `image ${row}`}));

// Call `at` wherever the pointer is pressed on a target.
function strokes(target, at) {
  target.onpointerdown = event => { target.setPointerCapture(event.pointerId); at(event); };
  target.onpointermove = event => { if (event.buttons) at(event); };
}

// ---- Map
const map = {
  scale: 1, x: 0.5, y: 0.5, places: [], found: null, chosen: null, between: null,
  start() {
    this.canvas = $('#map canvas');
    [this.places, this.maps] = [about.map, {pca: about.map}];
    this.position = new Map(about.rows.map((row, i) => [row, i]));
    this.columns = Math.ceil(Math.sqrt(about.rows.length));
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
    this.poll();
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
      const context = this.canvas.getContext('2d'), {size, columns} = this;
      const accent = getComputedStyle(document.body).getPropertyValue('--accent');
      context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
      context.clearRect(0, 0, this.width, this.height);
      [context.strokeStyle, context.fillStyle, context.lineWidth] = [accent, accent, 2];
      for (const i of this.order) {
        const [x, y] = this.screen(this.places[i]);
        if (x < -size || y < -size || x > this.width + size || y > this.height + size) return;
        context.globalAlpha = this.found && !this.found.has(about.rows[i]) ? 0.12 : 1;
        const tile = [i % columns, Math.floor(i / columns)].map(number => number * about.tile);
        if (sheet) context.drawImage(sheet, ...tile, about.tile, about.tile, x - size / 2, y - size / 2, size, size);
        else context.fillRect(x - 2, y - 2, 4, 4);
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

// ---- Mix
const mixer = {
  slots: [], point: [0.5, 0.5],
  start() {
    for (let i = 0; i < 4; i++) {
      const text = element('input', {type: 'text', placeholder: 'index, label', ariaLabel: `image ${i + 1}`, onchange: () => this.put(slot, text.value.trim())});
      const file = element('input', {type: 'file', accept: 'image/*', onchange: () => this.upload(slot, file)});
      const slot = {name: '', image: element('img', {alt: ''}), text};
      $('.slots').append(element('div', {className: 'slot'}, slot.image, slot.text, element('label', {className: 'button'}, 'Upload', file)));
      this.slots.push(slot);
    }
    $('#path').append(...about.paths.map(path => element('option', {textContent: path, selected: path === about.path})));
    $('#path').onchange = () => this.changed();
    $('#lacks').textContent = about.lacks;
    Object.assign($('#between'), {step: 1 / about.fractions, value: 0.5, oninput: () => this.decode()});
    const pad = $('#pad'), go = (x, y) => { this.point = [x, y].map(value => Math.min(1, Math.max(0, value))); this.decode(); };
    strokes(pad, event => go(event.offsetX / pad.clientWidth, event.offsetY / pad.clientHeight));
    pad.onkeydown = event => {
      const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
      if (!move) return;
      event.preventDefault();
      go(...this.point.map((value, i) => value + move[i] / about.fractions));
    };
  },
  begin() {
    const some = [about.rows[0], about.rows[about.rows.length >> 1]];
    Promise.all(some.map((row, i) => this.put(this.slots[i], String(row), false))).then(() => this.changed());
  },
  add(name) { this.put(this.slots.find(slot => !slot.name) || this.slots[3], name).then(() => open('mix')); },
  async put(slot, name, tell = true) {
    const made = name ? await ask('decode', {name}) : null;
    this.set(slot, ...(made ? [name, made.image] : ['', 'data:,']), tell);
  },
  async upload(slot, file) {
    const sent = await send(slot.text, file, '&encode');
    if (sent) this.set(slot, sent.name, sent.image);
  },
  set(slot, name, image, tell = true) {
    [slot.name, slot.text.value, slot.image.src] = [name, name, image];
    if (tell) this.changed();
  },
  get names() { return this.slots.filter(slot => slot.name).map(slot => slot.name); },
  get weights() {
    const n = this.names.length, t = +$('#between').value, [x, y] = this.point.map(value => +value.toFixed(2));
    if (n < 3) return n === 2 ? [1 - t, t] : [1];
    return [(1 - x) * (1 - y), x * (1 - y), ...(n === 3 ? [y] : [(1 - x) * y, x * y])].map(weight => +weight.toFixed(4));
  },
  changed() {
    const n = this.names.length;
    $('.between.two').hidden = n !== 2;
    $('.between.more').hidden = n < 3;
    $('#strip').hidden = n < 2 || about.lacks !== '';
    $('#pad').style.backgroundImage = this.slots.filter(slot => slot.name).map(slot => `url(${slot.image.src})`).join();
    $('#pad').style.backgroundPosition = n < 4 ? '0 0, 100% 0, 50% 100%' : '0 0, 100% 0, 0 100%, 100% 100%';
    if (!n) return;
    this.decode();
    if (!$('#strip').hidden) this.strip(this.names, $('#path').value);
  },
  decode() {
    [$('#pad i').style.left, $('#pad i').style.top] = this.point.map(value => `${100 * value}%`);
    this.picture(this.names, this.weights, $('#path').value);
  },
  picture: newest(async (names, weights, path) => show('mix', await ask('picture', {tab, names, weights, path}))),
  strip: newest(async (names, path) => {
    const answer = await ask('strip', {names, path, steps: 9});
    if (!answer) return;
    $('#strip img').src = answer.image;
    bindCopy($('#strip'), answer.command);
    const query = new URLSearchParams([...names.map(name => ['name', name]), ['path', path], ['steps', 9]]);
    for (const link of $$('#strip a')) Object.assign(link, {href: `strip.${link.dataset.kind}?${query}`, download: `strip.${link.dataset.kind}`});
  }),
};

// Upload the chosen file.
async function send(control, input, encode = '') {
  const [file] = input.files;
  input.value = '';
  if (!file) return null;
  if (file.size > 20e6) { say(`upload ${file.name}: has ${(file.size / 1e6).toFixed(0)} MB; 20 MB are taken`); return null; }
  return wait(control, `upload?${new URLSearchParams({file: file.name})}${encode}`, file);
}

// ---- Sliders
const sliders = {
  inputs: new Map(),
  start() {
    const attributes = new Map();
    for (const direction of about.directions) {
      const [group, value] = direction.split(/=(.*)/s), axis = value === undefined;
      const output = element('output', {textContent: '0'});
      const input = element('input', {type: 'range', min: axis ? -4 : -2, max: axis ? 4 : 2, step: 0.1, value: 0,
        oninput: () => { output.textContent = Number(input.value).toFixed(1); this.move(); }});
      const line = element('label', {className: 'axis'}, element('span', {textContent: axis ? `axis ${direction}` : value || 'none'}), input, output);
      this.inputs.set(direction, {input, output});
      if (!axis && !attributes.has(group)) {
        attributes.set(group, element('details', {open: about.attributes[group].length < 5}, element('summary', {textContent: group})));
        $('#axes').append(attributes.get(group));
      }
      (axis ? $('#axes') : attributes.get(group)).append(line);
    }
    $('#start input').value = about.rows[0];
    $('#start').onsubmit = event => { event.preventDefault(); this.move(); };
    $('#reset').onclick = () => this.reset();
  },
  reset() {
    for (const {input, output} of this.inputs.values()) [input.value, output.textContent] = [0, '0'];
    this.move();
  },
  move() {
    const moves = [...this.inputs].map(([name, {input}]) => [name, +input.value]).filter(([, amount]) => amount);
    this.picture($('#start input').value.trim() || null, moves.map(([name]) => name), moves.map(([, amount]) => amount));
  },
  picture: newest(async (name, moves, amounts) => show('sliders', await ask('picture', {tab, name, moves, amounts}))),
};

// ---- Sample
const sampler = {
  start() {
    const form = $('#draw'), fields = form.elements;
    fields.prior.append(...about.priors.map(prior => element('option', {textContent: prior, selected: prior === about.prior})));
    for (const [name, values] of Object.entries(about.attributes)) {
      const options = values.map(value => element('option', {value: `${name}=${value}`, textContent: value || 'none'}));
      $('#conditions').append(element('label', {}, `${name} `, element('select', {}, element('option', {value: '', textContent: 'any'}), ...options)));
    }
    const flow = () => { for (const part of $$('.asked')) part.hidden = fields.prior.value !== 'flow' || !Object.keys(about.attributes).length; };
    fields.prior.onchange = flow;
    flow();
    form.onsubmit = event => { event.preventDefault(); this.draw(fields); };
  },
  async draw(fields) {
    const asked = {prior: fields.prior.value};
    for (const name of ['seed', 'num', 'temperature', 'guidance']) asked[name] = +fields[name].value;
    asked.conditions = asked.prior === 'flow' ? $$('#conditions select').map(select => select.value).filter(Boolean) : [];
    const answer = await wait($('#draw .main'), 'samples', asked);
    if (!answer) return;
    $('#drawn').replaceChildren(...answer.samples.map((sample, i) => {
      const keep = element('button', {className: 'keep', title: 'keep it', onclick: () => this.keep(sample)},
        element('img', {src: sample.image, alt: `sample ${i + 1}`}));
      return element('div', {className: 'drawn tiles'}, keep, element('div', {}, ...sample.near.map(other => thumbnail(other.row, other.image))));
    }));
    show('sample', answer.samples[0]);
  },
  keep(sample) {
    show('sample', sample);
    if (![...$$('#kept img')].some(image => image.src === sample.image)) {
      $('#kept').append(element('button', {onclick: () => show('sample', sample)}, element('img', {src: sample.image, alt: 'kept sample'})));
    }
  },
};

// ---- Fill in
const filler = {
  name: null,
  start() {
    const canvas = $('#fill canvas'), file = $('#fill input[type=file]');
    this.context = canvas.getContext('2d');
    for (const each of [canvas, this.mask = element('canvas')]) each.width = each.height = about.image_size;
    this.mask = this.mask.getContext('2d');
    const paint = event => {
      const scale = about.image_size / canvas.clientWidth, brush = new Path2D();
      brush.arc(event.offsetX * scale, event.offsetY * scale, +$('#brush').value, 0, 7);
      this.mask.fillStyle = 'black';
      this.mask.fill(brush);
      this.draw();
    };
    strokes(canvas, paint);
    file.onchange = async () => {
      const sent = await send($('#fill-in'), file);
      if (!sent) return;
      [this.name, this.image] = [sent.name, element('img', {src: sent.image})];
      this.image.decode().then(() => this.clear());
    };
    $('#clear').onclick = () => this.clear();
    $('#fill-in').onclick = async () => {
      if (!this.name) return say('choose an image first');
      show('fill', await wait($('#fill-in'), 'fill', {name: this.name, mask: this.url.split(',')[1]}));
    };
    $('#mask').onclick = () => { $('#mask').href = this.url; };
    this.clear();
  },
  clear() {
    this.mask.fillStyle = 'white';
    this.mask.fillRect(0, 0, about.image_size, about.image_size);
    this.draw();
  },
  // The mask: known pixels white, painted ones black. A brush has soft edges, a mask has none.
  get url() {
    const pixels = this.mask.getImageData(0, 0, about.image_size, about.image_size);
    for (let i = 0; i < pixels.data.length; i++) if (i % 4 < 3) pixels.data[i] = pixels.data[i] > 127 ? 255 : 0;
    this.mask.putImageData(pixels, 0, 0);
    return this.mask.canvas.toDataURL('image/png');
  },
  draw() {
    const {context} = this;
    context.globalCompositeOperation = 'source-over';
    context.clearRect(0, 0, about.image_size, about.image_size);
    if (this.image) context.drawImage(this.image, 0, 0);
    context.globalCompositeOperation = 'multiply';
    context.drawImage(this.mask.canvas, 0, 0);
  },
};

async function main() {
  if (!(about = await ask('about'))) return;
  const without = about.has_images ? '' : '; these are missing, so the map shows dots';
  $('#run').textContent = `${about.run}: ${about.num_images.toLocaleString('en')} images${without}`;
  if (about.has_images) await (sheet = element('img', {src: about.thumbnails || 'thumbnails'})).decode();
  const parts = {map, mix: mixer, sliders, sample: sampler, fill: filler}, names = $$('nav button').map(button => button.dataset.tab);
  for (const name of names) { parts[name].start(); $(`[data-tab=${name}]`).onclick = () => open(name); }
  for (const event of ['pointerdown', 'keydown']) addEventListener(event, () => say(''), true);  // the message was read
  open(names.find(name => `#${name}` === location.hash) || 'map');
  document.body.dataset.ready = true;
}

addEventListener('DOMContentLoaded', main);
