import {$, about, ask, element, label, newest, remember, show, tab} from './common.js';

export const sliders = {
  inputs: new Map(),
  start() {
    const groups = new Map();
    for (const direction of about.directions) {
      const [group, value] = direction.split(/=(.*)/s), axis = value === undefined;
      const output = element('output', {textContent: '0'});
      const input = element('input', {type: 'range', min: axis ? -4 : -2, max: axis ? 4 : 2, step: 0.1, value: 0,
        oninput: () => { output.textContent = Number(input.value).toFixed(1); this.move(); }});
      const line = element('label', {className: 'axis'}, axis ? element('span', {textContent: `axis ${direction}`}) : label(group, value), input, output);
      this.inputs.set(direction, {input, output});
      const title = axis ? 'principal axes' : group;
      if (!groups.has(title)) {
        groups.set(title, element('details', {open: axis || about.attributes[group].length <= 10}, element('summary', {textContent: title})));
        $('#axes').append(groups.get(title));
      }
      groups.get(title).append(line);
    }
    $('#start').onsubmit = event => { event.preventDefault(); this.move(); };
    $('#start').onchange = () => this.move();
    $('#reset').onclick = () => this.set({});
  },
  // What the address says; without any the first image of the map.
  restore({from, ...amounts}) {
    $('#start input').value = from ?? about.rows[0];
    this.set(amounts);
  },
  take(name) { this.restore({from: name}); },
  set(amounts) {
    for (const [name, {input, output}] of this.inputs) {
      input.value = amounts[name] ?? 0;
      output.textContent = +input.value ? Number(input.value).toFixed(1) : '0';
    }
    this.move();
  },
  move() {
    const from = $('#start input').value.trim();
    const moves = [...this.inputs].map(([name, {input}]) => [name, +input.value]).filter(([, amount]) => amount);
    remember('sliders', {from, ...Object.fromEntries(moves)});
    this.picture(from || null, moves.map(([name]) => name), moves.map(([, amount]) => amount));
  },
  picture: newest(async (name, moves, amounts) => show('sliders', await ask('picture', {tab, name, moves, amounts}))),
};
