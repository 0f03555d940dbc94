import {$, about, ask, colourOf, element, wait} from './common.js';
import {map} from './map.js';

const PALETTE = ['#4e79a7', '#f28e2b', '#e15759', '#76b7b2', '#59a14f', '#edc948', '#b07aa1', '#ff9da7', '#9c755f', '#bab0ac'];
const SCALE = [[190, 60, 20], [225, 205, 140], [40, 110, 170]];  // from the worst to the best reconstruction
const UNKNOWN = '#8b8f96', WORST = 60;

// The colours of the images on the map, and the legend, which filters the images by what they stand for.
export const legend = {
  numbers: null, colours: [], names: [], pressed: new Set(),
  start() {
    const names = Object.keys(about.attributes).map(name => element('option', {textContent: name, value: `label ${name}`}));
    $('#colour').append(...names, ...(about.has_images ? [element('option', {textContent: 'reconstruction', value: 'psnr'})] : []));
    $('#colour').onchange = event => this.use(event.target.value);
    $('#colour').parentElement.hidden = $('#colour').length < 2;
  },
  async use(value) {
    map.hover(null);
    this.numbers = null;
    this.pressed.clear();
    $('#legend').replaceChildren();
    if (value === 'psnr') this.showQuality(await wait($('#colour'), 'psnr'));
    else if (value) this.showLabels(value.slice(6), await ask(`labels?${new URLSearchParams({name: value.slice(6)})}`));
    $('#legend').hidden = !this.numbers;
    map.draw();
  },
  showLabels(name, answer) {
    if (!answer) return;
    const values = about.attributes[name];
    [this.numbers, this.names] = [answer.numbers, values.map(value => value || 'none')];
    const other = i => values.length <= PALETTE.length ? PALETTE[i] : `hsl(${i * 137.5 % 360} 65% ${i % 2 ? 40 : 60}%)`;
    this.colours = values.map((value, i) => value ? colourOf(name, value) || other(i) : UNKNOWN);
    const counts = values.map((_, i) => this.numbers.filter(number => number === i).length);
    $('#legend').append(...values.map((value, i) => element('button', {onclick: event => this.press(i, event.currentTarget), ariaPressed: 'false'},
      element('i', {className: 'swatch', style: `background: ${this.colours[i]}`}), `${this.names[i]} ${counts[i]}`)));
  },
  press(number, button) {
    if (!this.pressed.delete(number)) this.pressed.add(number);
    button.setAttribute('aria-pressed', this.pressed.has(number));
    map.draw();
  },
  showQuality(answer) {
    if (!answer) return;
    const order = [...answer.psnr.keys()].sort((a, b) => answer.psnr[a] - answer.psnr[b]), [low, high] = [0.02, 0.98].map(part => answer.psnr[order[Math.floor(part * (order.length - 1))]]);
    [this.numbers, this.names] = [answer.psnr.map((_, i) => i), answer.psnr.map(value => `${value.toFixed(1)} dB`)];
    this.colours = answer.psnr.map(value => {
      const part = 2 * Math.min(1, Math.max(0, (value - low) / (high - low || 1))), at = Math.min(1, Math.floor(part));
      return `rgb(${SCALE[at].map((from, i) => Math.round(from + (part - at) * (SCALE[at + 1][i] - from)))})`;
    });
    $('#legend').append(element('p', {textContent: `PSNR of the reconstructions, from ${low.toFixed(1)} `}, element('i', {className: 'scale'}), ` to ${high.toFixed(1)} dB. Worst first:`),
      element('div', {className: 'tiles'}, ...order.slice(0, WORST).map(i => map.tile(i, this.names[i]))));
  },
  colour(i) { return this.colours[this.numbers[i]] || UNKNOWN; },
  text(i) { return this.numbers ? [this.names[this.numbers[i]] ?? 'unknown'] : []; },
  // Whether the legend leaves an image out.
  hides(i) { return this.pressed.size > 0 && !this.pressed.has(this.numbers[i]); },
};
