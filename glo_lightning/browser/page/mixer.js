import {$, $$, about, ask, bindCopy, element, newest, open, send, show, strokes, tab} from './common.js';

export const mixer = {
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
  opened() { if (!this.names.length) this.begin(); },
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
