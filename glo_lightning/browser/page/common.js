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

// A value of an attribute; one that is a colour is shown as such.
export function label(name, value) {
  const values = about.attributes[name].filter(Boolean), isColour = values.every(each => /^[0-9a-f]{6}$/i.test(each)) && /[a-f]/i.test(values);
  const swatch = isColour && value ? [element('i', {className: 'swatch', style: `background: #${value}`})] : [];
  return element('span', {className: 'label', title: `${name}=${value}`}, ...swatch, value || 'none');
}

// Ask the server. Without an answer null; a message says why, unless a newer position came.
export async function ask(path, asked) {
  try { return await source.answer(path, asked); } catch (error) { if (error.message) say(error.message); }
  return null;
}

// Where answers come from; offline.js has another.
export const source = {
  async answer(path, asked) {
    const options = asked === undefined ? {} : {method: 'POST', body: asked instanceof Blob ? asked : JSON.stringify(asked)};
    const failed = () => { throw new Error('the server does not answer: is it still running?'); };
    const response = await fetch(path, options).catch(failed), answer = await response.json().catch(failed);
    if (response.ok) return answer;
    throw new Error(response.status === 409 ? '' : answer.message);
  },
};

// Ask for something that takes a while.
export async function wait(button, path, asked) {
  button.disabled = true;
  const answer = await ask(path, asked);
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

// Show a picture with its command, its code to be saved, and beside it the `original` {image, caption} if there is one.
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
  bindCopy(place, made.command);
  $('form', place).onsubmit = async event => {
    event.preventDefault();
    const saved = await ask('save', {name: event.target.elements.name.value, code: made.code});
    if (saved) say(`saved as ${saved.name}, which is a name of an image here, too; ${saved.command}`, true);
  };
}

export function open(name) {
  for (const section of $$('main > section')) section.hidden = section.id !== name;
  for (const button of $$('nav button')) {
    button.setAttribute('aria-selected', button.dataset.tab === name);
    button.tabIndex = button.dataset.tab === name ? 0 : -1;
  }
  say('');
  history.replaceState(null, '', `#${name}`);
  tabs[name].opened?.();
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
