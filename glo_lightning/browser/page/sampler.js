import {$, $$, about, element, show, wait} from './common.js';
import {thumbnail} from './map.js';

export const sampler = {
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
