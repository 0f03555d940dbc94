// What all tabs need: elements, requests, messages, pictures with their commands.
export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
export const tab = String(Math.random()).slice(2);  // the server computes one picture at a time for each tab
export const about = {};  // what the server tells of the run at the start
export const tabs = {};  // the parts of the page by the names of their sections

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Say what is wrong or, if it is `done`, what was done. It stays until it is closed, another comes, or another tab is opened.
export function say(text, done = false) {
  const box = $('#message');
  [box.className, box.hidden] = [done ? 'done' : 'wrong', !text];
  box.setAttribute('role', done ? 'status' : 'alert');
  $('b', box).textContent = done ? '✓ Done:' : '⚠ Error:';
  $('span', box).textContent = text;
}

// The colour that a value of an attribute is, such as ffdbb4; '' for attributes of another kind.
export function colourOf(name, value) {
  const values = about.attributes[name].filter(Boolean);
  return value && values.every(each => /^[0-9a-f]{6}$/i.test(each)) && /[a-f]/i.test(values) ? `#${value}` : '';
}

// A value of an attribute; one that is a colour is shown as such.
export function label(name, value) {
  const colour = colourOf(name, value), swatch = colour ? [element('i', {className: 'swatch', style: `background: ${colour}`})] : [];
  return element('span', {className: 'label', title: `${name}=${value}`}, ...swatch, value || 'none');
}

// Ask the server. Without an answer null; a message says why, unless a newer position came.
export async function ask(path, asked, signal) {
  try { return await source.answer(path, asked, signal); } catch (error) { if (error.message) say(error.message); }
  return null;
}

// Where answers come from; offline.js has another.
export const source = {
  async answer(path, asked, signal) {
    const options = asked === undefined ? {} : {method: 'POST', signal, body: asked instanceof Blob ? asked : JSON.stringify(asked)};
    const failed = error => { throw new Error(error.name === 'AbortError' ? '' : 'the server does not answer: is it still running?'); };
    const response = await fetch(path, options).catch(failed), answer = await response.json().catch(failed);
    if (response.ok) return answer;
    throw new Error(response.status === 409 ? '' : answer.message);
  },
};

export function workText(work) {
  const minutes = Math.round(work.left / 60), left = work.left < 90 ? `${Math.ceil(work.left)} s` : `${minutes} min`;
  return `${work.what}: ${Math.round(100 * work.done)} %${work.left === null ? '' : `, about ${left} left`}`;
}

// Ask for something that takes a while; beside the button stand its progress and a button that stops it.
export async function wait(button, path, asked) {
  const stop = new AbortController(), bar = element('progress'), text = element('span', {role: 'status'});
  const box = element('span', {className: 'work'}, bar, text,
    element('button', {type: 'button', textContent: 'Stop', onclick: () => { stop.abort(); say('stopped', true); }}));
  const timer = setInterval(async () => {
    if (!box.isConnected) button.after(box);
    const work = (await source.answer('progress').catch(() => null))?.work;
    text.textContent = work ? workText(work) : 'working';
    if (work) bar.value = work.done; else bar.removeAttribute('value');
  }, 700);
  button.disabled = true;
  const answer = await ask(path, asked, stop.signal);
  clearInterval(timer);
  box.remove();
  button.disabled = false;
  return answer;
}

// Call `make` once the previous call has ended, with the newest arguments.
export function newest(make) {
  let busy = false, next = null;
  return async (...wanted) => {
    next = wanted;
    if (busy) return;
    for (busy = true; next;) { const now = next; next = null; await make(...now); }
    busy = false;
  };
}

export function bindCopy(box, command) {
  $('code', box).textContent = command;
  $('.copy', box).onclick = async () => {
    if (navigator.clipboard) await navigator.clipboard.writeText(command);
    else getSelection().selectAllChildren($('code', box));
    $('.copy', box).textContent = navigator.clipboard ? 'Copied' : 'Selected';
    setTimeout(() => { $('.copy', box).textContent = 'Copy'; }, 1200);
  };
}

// Save the code of a picture, so that it is an image like any other; without a name the server gives it one.
async function save(made, name) {
  const saved = await ask('save', {name, code: made.code});
  if (saved) made.name = saved.name;
  await listSaved();
  return saved?.name;
}

// Show a picture with what can be done with it, and beside it the `original` {image, caption} if there is one.
export function show(section, made, caption = 'made by the generator', original = null) {
  if (!made) return;
  const place = $(`#${section} .made`);
  if (!place.firstElementChild) place.append($('#card').content.cloneNode(true));
  const pictures = {result: {image: made.image, caption}, original};
  for (const [name, picture] of Object.entries(pictures)) {
    const figure = $(`.${name}`, place);
    figure.hidden = !picture;
    if (picture) [$('img', figure).src, $('img', figure).alt, $('figcaption', figure).textContent] = [picture.image, picture.caption, picture.caption];
  }
  Object.assign($('.download', place), {href: made.image, download: `${made.name ?? section}.png`});
  for (const button of $$('[data-to]', place)) {
    Object.assign(button, {hidden: !hasTab(button.dataset.to), onclick: async () => {
      const name = made.name ?? await save(made, '');
      if (name) { await open(button.dataset.to); tabs[button.dataset.to].take(name); }
    }});
  }
  bindCopy(place, made.command);
  $('form', place).onsubmit = async event => {
    event.preventDefault();
    const name = await save(made, event.target.elements.name.value);
    if (name) say(`saved as ${name}, which is the name of an image now, on this page and in the commands`, true);
  };
}

// List the saved codes; a click on one takes it into the tab that is open.
export async function listSaved() {
  const saved = (await ask('saved'))?.saved ?? [];
  $('#saved').hidden = !saved.length;
  $('#saved .tiles').replaceChildren(...saved.map(({name, image}) => element('button', {title: `saved code ${name}`, onclick: async () => {
    if (tabs[current].take) tabs[current].take(name); else show(current, await ask('decode', {name}));
  }}, element('img', {src: image, alt: ''}), element('span', {textContent: name}))));
  const labels = $$('#labels option').map(({value}) => value);
  $('#names').replaceChildren(...[...saved.map(({name}) => name), ...labels].map(value => element('option', {value})));
}

// ---- The address. It says what the open tab shows, and can be shared; history.state has that of all tabs, for a reload.
const shown = history.state ?? {};
let current, writing, written = 0;

const hasTab = name => $(`[data-tab=${name}]`) !== null;
const query = name => new URLSearchParams(shown[name]?.fields).toString();
const address = name => `#${name}${query(name) && `?${query(name)}`}`;

function write() {
  clearTimeout(writing);
  written = Date.now();
  history.replaceState(shown, '', address(current));
}
addEventListener('beforeunload', () => { if (current) write(); });  // a reload may come before the timer

// Keep what a tab shows: `fields` go into the address, `large` ones only survive a reload.
export function remember(name, fields, large = {}) {
  shown[name] = {fields, large};
  clearTimeout(writing);
  if (Date.now() > written + 300) write(); else writing = setTimeout(write, 300);  // browsers limit how often it changes
}

// Open a tab; Back leads to the one before.
export function open(name) {
  if (name !== current) {
    write();
    history.pushState(shown, '', address(name));
  }
  return reveal(name);
}

async function reveal(name) {
  current = name;
  for (const section of $$('main > section')) section.hidden = section.id !== name;
  for (const button of $$('nav button')) {
    button.setAttribute('aria-selected', button.dataset.tab === name);
    button.tabIndex = button.dataset.tab === name ? 0 : -1;
  }
  say('');
  $(`#${name}`).append($('#saved'));  // within the section, so that its picture stays in view
  tabs[name].ready ??= tabs[name].restore?.(shown[name]?.fields ?? {}, shown[name]?.large ?? {}) ?? true;
  tabs[name].opened?.();
  await tabs[name].ready;
}

// Open what the address says: at the start, by Back and Forward, and when it is typed.
export function follow() {
  const [wanted, fields = ''] = location.hash.slice(1).split(/\?(.*)/s), name = wanted && hasTab(wanted) ? wanted : 'map';
  if (name === wanted && new URLSearchParams(fields).toString() !== query(name)) {
    shown[name] = {fields: Object.fromEntries(new URLSearchParams(fields)), large: history.state?.[name]?.large ?? {}};
    tabs[name].ready = null;
  }
  reveal(name);
}

// Call `at` wherever the pointer is pressed on a target.
export function strokes(target, at) {
  target.onpointerdown = event => { target.setPointerCapture(event.pointerId); at(event); };
  target.onpointermove = event => { if (event.buttons) at(event); };
}

// Upload the chosen file.
export async function send(control, input, encode = '') {
  const [file] = input.files;
  input.value = '';
  if (!file) return null;
  if (file.size > 20e6) { say(`upload ${file.name}: has ${(file.size / 1e6).toFixed(0)} MB; 20 MB are taken`); return null; }
  return wait(control, `upload?${new URLSearchParams({file: file.name})}${encode}`, file);
}
