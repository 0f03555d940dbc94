import {$, $$, about, ask, colourOf, element, newest, remember, show, wait} from './common.js';
import {thumbnail} from './map.js';

export const sampler = {
  drawn: false, changed: false,
  start() {
    const {prior, temperature, guidance} = this.fields = $('#draw').elements, first = about.quick_priors.includes(about.prior) ? about.prior : about.quick_priors[0];
    prior.append(...about.priors.map(name => element('option', {textContent: name, selected: name === first})));
    for (const [name, values] of Object.entries(about.attributes)) {
      const options = values.map(value => element('option', {value: `${name}=${value}`, textContent: value || 'none',
        style: colourOf(name, value) && `color: black; background: ${colourOf(name, value)}`}));
      $('#conditions').append(element('label', {}, `${name} `, element('select', {}, element('option', {value: '', textContent: 'any'}), ...options)));
    }
    $('#draw details').open = innerWidth > 800;
    for (const input of [temperature, guidance]) input.oninput = () => { this.outputs(); if (this.quick) this.live(); };
    $('#draw').onchange = () => {
      this.outputs();
      this.changed = true;
      if (this.quick) this.draw();
    };
    $('#draw .main').onclick = () => {  // what was set by hand is drawn as it is, else other samples
      if (this.drawn && !this.changed) this.fields.seed.value = (+this.fields.seed.value + 1) % 2 ** 32;
      this.draw();
    };
    $('#draw').onsubmit = event => event.preventDefault();
    this.outputs();
  },
  // What the address says, drawn.
  restore(fields) {
    for (const name of ['prior', 'seed', 'num', 'temperature', 'guidance']) if (fields[name]) this.fields[name].value = fields[name];
    if (!this.fields.prior.value) this.fields.prior.value = about.quick_priors[0];
    const conditions = (fields.conditions ?? '').split('|');
    for (const select of $$('#conditions select')) select.value = [...select.options].find(({value}) => conditions.includes(value))?.value ?? '';
    this.outputs();
    this.draw();
  },
  get quick() { return about.quick_priors.includes(this.fields.prior.value); },
  outputs() {
    const flow = this.fields.prior.value === 'flow' && Object.keys(about.attributes).length > 0;
    for (const part of $$('#sample .asked')) part.hidden = !flow;
    for (const output of $$('#draw output')) output.textContent = $('input', output.parentElement).value;
    $('#unfitted').hidden = this.quick;
    const few = `${about.rows.length} images are too few for a flow, which needs ${about.flow_needs}.`;
    $('#blends').hidden = !['gaussian', 'diagonal', 'mixture'].includes(this.fields.prior.value);
    $('#blends').textContent = `Priors made of Gaussians draw blurred blends of images. ${about.priors.includes('flow') ? 'A flow draws clearer ones.' : few}`;
  },
  get asked() {
    const asked = {prior: this.fields.prior.value};
    for (const name of ['seed', 'num', 'temperature', 'guidance']) asked[name] = +this.fields[name].value;
    return {...asked, conditions: asked.prior === 'flow' ? $$('#conditions select').map(select => select.value).filter(Boolean) : []};
  },
  draw: newest(async () => {
    const {asked} = sampler;
    [sampler.drawn, sampler.changed] = [true, false];
    remember('sample', {...asked, conditions: asked.conditions.join('|')});
    if (sampler.quick && !$('#drawn').firstChild) {
      const first = await wait($('#draw .main'), 'samples', {...asked, neighbours: false});
      if (!first) return;  // stopped
      sampler.fill(asked, first);
    }
    sampler.fill(asked, await wait($('#draw .main'), 'samples', asked));
    sampler.outputs();
  }),
  // While a slider moves; the nearest training images, which take longer, come when it stops.
  live: newest(async () => sampler.fill(sampler.asked, await ask('samples', {...sampler.asked, neighbours: false}))),
  fill({prior, seed}, answer) {
    if (!answer) return;
    about.quick_priors.push(prior);
    const name = i => `sample ${i + 1} of ${answer.samples.length}, seed ${seed}`;
    $('#drawn').replaceChildren(...answer.samples.map((sample, i) => {
      const keep = element('button', {className: 'keep', title: name(i), onclick: () => show('sample', sample, name(i))}, element('img', {src: sample.image, alt: name(i)}));
      return element('div', {className: 'drawn tiles'}, keep, element('div', {}, ...sample.near.map(({row, image, by}) => thumbnail(row, image, `by ${by}`))));
    }));
    show('sample', answer.samples[0], name(0));
  },
};
