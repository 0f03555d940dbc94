import {$, $$, about, ask, open, say, tabs} from './common.js';
import {filler} from './filler.js';
import {map} from './map.js';
import {mixer} from './mixer.js';
import {sampler} from './sampler.js';
import {sliders} from './sliders.js';

async function main() {
  if (!Object.assign(about, await ask('about')).run) return;
  const without = about.has_images ? '' : '; these are missing, so the map shows what the generator makes of their codes; --data.root says where they are';
  $('#run').textContent = `${about.run}: ${about.num_images.toLocaleString('en')} images${without}`;
  Object.assign(tabs, {map, mix: mixer, sliders, sample: sampler, fill: filler});
  const names = $$('nav button').map(button => button.dataset.tab);
  for (const name of names) { tabs[name].start(); $(`[data-tab=${name}]`).onclick = () => open(name); }
  for (const event of ['pointerdown', 'keydown']) addEventListener(event, () => say(''), true);  // the message was read
  open(names.find(name => `#${name}` === location.hash) || 'map');
  document.body.dataset.ready = true;
}

addEventListener('DOMContentLoaded', main);
Object.assign(window, {about, ask, filler, map, mixer, sliders});  // for the browser's console, and tests
