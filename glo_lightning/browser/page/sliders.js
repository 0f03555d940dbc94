import {$, about, ask, element, newest, show, tab} from './common.js';

export const sliders = {
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
  opened() { if (!$('#sliders img')) this.move(); },
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
