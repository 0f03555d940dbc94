import {$, $$, about, ask, element, follow, listSaved, open, say, tabs} from './common.js';
import {filler} from './filler.js';
import {legend} from './legend.js';
import {map} from './map.js';
import {mixer} from './mixer.js';
import {sampler} from './sampler.js';
import {sliders} from './sliders.js';

async function main() {
  if (!Object.assign(about, await ask('about')).run) return;
  const without = about.has_images ? '' : '; these are missing, so the map shows what the generator makes of their codes; --data.root says where they are';
  $('#run').textContent = `${about.run}: ${about.num_images.toLocaleString('en')} images${without}`;
  Object.assign($('#lacks'), {textContent: about.lacks ?? '', hidden: !about.lacks});
  const labels = Object.entries(about.attributes).flatMap(([name, values]) => values.filter(Boolean).map(value => `${name}=${value}`));
  $('#labels').append(...labels.slice(0, 500).map(value => element('option', {value})));
  Object.assign(tabs, {map, mix: mixer, sliders, sample: sampler, fill: filler});
  const buttons = $$('nav button'), names = buttons.map(button => button.dataset.tab);
  for (const [i, name] of names.entries()) {
    tabs[name].start();
    $(`#${name}`).setAttribute('role', 'tabpanel');
    $(`#${name}`).setAttribute('aria-labelledby', buttons[i].id);
    buttons[i].onclick = () => open(name);
    buttons[i].onkeydown = event => {
      const next = {ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: -1}[event.key];
      if (next === undefined) return;
      event.preventDefault();
      buttons.at(next % names.length).focus();
      open(names.at(next % names.length));
    };
  }
  if (!labels.length) {
    for (const part of $$('.labelled')) part.hidden = true;
    for (const input of $$('[placeholder*=label]')) input.placeholder = input.placeholder.replace(', label', '');
  }
  $('#message button').onclick = () => say('');
  follow();
  listSaved();
  addEventListener('popstate', follow);
  document.body.dataset.ready = true;
}

addEventListener('DOMContentLoaded', main);
Object.assign(window, {about, ask, filler, legend, map, mixer, sliders});  // for the browser's console, and tests
