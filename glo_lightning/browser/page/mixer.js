import {$, $$, about, ask, bindCopy, element, newest, remember, send, show, source, strokes, tab} from './common.js';

const STEPS = 9;  // of a strip
const FIELDS = ['a', 'b', 'c', 'd'];  // of the slots, in the address

export const mixer = {
  slots: [], point: [0.5, 0.5], untouched: false,
  start() {
    for (let i = 0; i < 4; i++) {
      const text = element('input', {type: 'text', placeholder: 'index, label, saved code', ariaLabel: `image ${i + 1}`, onchange: () => this.put(slot, text.value.trim())});
      text.setAttribute('list', 'names');
      const file = element('input', {type: 'file', accept: 'image/*', ariaLabel: `file for image ${i + 1}`, onchange: () => this.upload(slot, file)});
      const image = element('img', {alt: '', hidden: true}), note = element('p', {className: 'wrong', role: 'status'});
      const slot = {name: '', image, text, note};
      const frame = element('button', {className: 'frame', ariaLabel: `show image ${i + 1} alone`, onclick: () => this.alone(slot)}, image);
      $('.slots').append(element('div', {className: 'slot'}, frame, text,
        element('label', {className: 'button'}, 'Upload', file), note));
      this.slots.push(slot);
    }
    $('#path').append(...about.paths.map(path => element('option', {textContent: path, selected: path === about.path})));
    $('#path').onchange = () => this.changed();
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
  // What the address says; without any two images of the run.
  async restore(fields) {
    const names = FIELDS.map(key => fields[key] ?? '');
    this.untouched = !names.some(Boolean);
    if (this.untouched) [names[0], names[1]] = [about.rows[0], about.rows[about.rows.length >> 1]].map(String);
    if (about.paths.includes(fields.path)) $('#path').value = fields.path;
    $('#between').value = fields.at ?? 0.5;
    this.point = (fields.point ?? '0.5 0.5').split(' ').map(Number);
    await Promise.all(names.map((name, i) => this.put(this.slots[i], name, false)));
    this.changed();
  },
  take(name) {
    const slot = this.untouched ? this.slots[0] : this.slots.find(slot => !slot.name) ?? this.slots[3];
    this.untouched = false;
    return this.put(slot, name);
  },
  // Put an image into a slot; one that is not known leaves the slot as it is, and a line there says why.
  async put(slot, name, tell = true) {
    try {
      const made = name ? await source.answer('decode', {name}) : null;
      this.set(slot, name, made?.image, '', tell);
    } catch (error) {
      slot.note.textContent = error.message;
      slot.text.value = name;
    }
  },
  async upload(slot, file) {
    const sent = await send(slot.text, file, '&encode');
    if (sent) this.set(slot, sent.name, sent.image, sent.note, true);
  },
  set(slot, name, image, note, tell) {
    [slot.name, slot.text.value, slot.image.hidden, slot.note.textContent] = [name, name, !image, note];
    if (image) slot.image.src = image; else slot.image.removeAttribute('src');
    if (!tell) return;
    this.untouched = false;
    this.changed();
  },
  async alone({name}) { if (name) show('mix', await ask('decode', {name})); },
  get filled() { return this.slots.filter(slot => slot.name); },
  get names() { return this.filled.map(slot => slot.name); },
  get weights() {
    const n = this.names.length, t = +$('#between').value, [x, y] = this.point.map(value => +value.toFixed(2));
    if (n < 3) return n === 2 ? [1 - t, t] : [1];
    return [(1 - x) * (1 - y), x * (1 - y), ...(n === 3 ? [y] : [(1 - x) * y, x * y])].map(weight => +weight.toFixed(4));
  },
  changed() {
    const n = this.names.length;
    $('.between.two').hidden = n !== 2;
    $('.between.more').hidden = n < 3;
    $('#strip').hidden = n < 2;
    $('#pad').style.backgroundImage = this.filled.map(slot => `url(${slot.image.src})`).join();
    $('#pad').style.backgroundPosition = n < 4 ? '0 0, 100% 0, 50% 100%' : '0 0, 100% 0, 0 100%, 100% 100%';
    if (!n) return;
    this.decode();
    if (!$('#strip').hidden) this.strip(this.names, $('#path').value);
  },
  decode() {
    [$('#pad i').style.left, $('#pad i').style.top] = this.point.map(value => `${100 * value}%`);
    const slots = Object.fromEntries(this.slots.map(({name}, i) => [FIELDS[i], name]).filter(([, name]) => name));
    remember('mix', {...slots, path: $('#path').value, at: $('#between').value, point: this.point.map(value => value.toFixed(2)).join(' ')});
    this.picture(this.names, this.weights, $('#path').value);
  },
  picture: newest(async (names, weights, path) => show('mix', await ask('picture', {tab, names, weights, path}))),
  strip: newest(async (names, path) => {
    const answer = await ask('strip', {names, path, steps: STEPS});
    if (!answer) return;
    $('#strip .rows').replaceChildren(...answer.rows.map((row, i) => element('div', {className: 'row'}, ...row.map((image, at) =>
      element('button', {title: `${names[i]} to ${names[i + 1]}, ${Math.round(100 * at / (STEPS - 1))} %`,
        onclick: () => mixer.picture([names[i], names[i + 1]], [1 - at / (STEPS - 1), at / (STEPS - 1)], path)}, element('img', {src: image, alt: ''}))))));
    bindCopy($('#strip'), answer.command);
    const query = new URLSearchParams([...names.map(name => ['name', name]), ['path', path], ['steps', STEPS]]);
    for (const link of $$('#strip a')) Object.assign(link, {href: `strip.${link.dataset.kind}?${query}`, download: `strip.${link.dataset.kind}`});
  }),
};
