/* The page without a server: `ask` asks here, and the answers are computed from data in the page itself.

   This page contains the code of glo_lightning, Copyright (c) 2026 the glo_lightning authors, and of ONNX Runtime Web,
   Copyright (c) Microsoft Corporation (https://github.com/microsoft/onnxruntime), both under the MIT License:

   Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
   "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
   distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
   the following conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions
   of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
   WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS
   BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
   CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE. */
import {$, element, source} from './common.js';
import {map} from './map.js';

// Data that the export put into the page under this name, an ArrayBuffer.
async function embedded(name) {
  const packed = Uint8Array.from(atob($(`#${name}`).textContent), character => character.charCodeAt(0));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
}

// A half-precision number from its 16 bits; all codes are finite.
function half(bits) {
  const exponent = bits >> 10 & 31, fraction = bits & 1023;
  return (bits >> 15 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}

// ---- Codes, as in latents.py, paths.py and editing.py
const dot = (first, second) => first.reduce((sum, value, i) => sum + value * second[i], 0);
const norm = code => Math.hypot(...code);
const lerp = (start, end, part) => start.map((value, i) => value + part * (end[i] - value));

function slerp(start, end, part) {
  const [first, last] = [norm(start), norm(end)], cosine = start.reduce((sum, value, i) => sum + value / first * (end[i] / last), 0);
  const angle = Math.acos(Math.min(1, Math.max(-1, cosine))), sine = Math.sin(angle);
  if (!(sine >= 1e-6)) return lerp(start, end, part);  // parallel, or one without a direction
  const [a, b] = [Math.sin((1 - part) * angle) / sine / first, Math.sin(part * angle) / sine / last];
  return lerp(start, end, part).map((_, i) => (a * start[i] + b * end[i]) * (first + part * (last - first)));
}

function mix(codes, weights, interpolate) {
  let [mixed] = codes, [total] = weights;
  for (let i = 1; i < codes.length; i++) {
    total += weights[i];
    if (weights[i]) mixed = interpolate(mixed, codes[i], weights[i] / total);
  }
  return mixed;
}

const PROJECTIONS = {
  ball: code => { const length = Math.max(1, norm(code)); return code.map(value => value / length); },
  sphere: code => { const length = norm(code) || 1; return code.map(value => value / length); },
  none: code => code,
};

// ---- The run in the page
const offline = {
  saved: new Map(),  // pictures by name
  async start() {
    for (const part of ['sample', 'fill']) for (const each of [`[data-tab=${part}]`, `#${part}`]) $(each).remove();  // they need a server
    this.session = this.startGenerator();
    this.session.catch(() => {});  // reported when a picture is asked for
    const [about, codes] = await Promise.all(['about', 'codes'].map(embedded));
    this.about = JSON.parse(new TextDecoder().decode(about));
    const {rows, directions, means} = this.about;
    const names = [...rows, 'mean', ...directions.map(name => `move ${name}`), ...means], halves = new Uint16Array(codes);
    const dimensions = halves.length / names.length;
    this.codes = new Map(names.map((name, i) => [String(name), Float64Array.from(halves.subarray(i * dimensions, (i + 1) * dimensions), half)]));
    this.project = PROJECTIONS[this.about.constraint];
    return this.about;
  },
  async startGenerator() {
    const [runtime, wasm, generator] = await Promise.all(['runtime', 'wasm', 'generator'].map(embedded));
    this.ort = await import(URL.createObjectURL(new Blob([runtime], {type: 'text/javascript'})));
    Object.assign(this.ort.env.wasm, {wasmBinary: wasm, numThreads: 1});  // a local file has no memory that threads can share
    return this.ort.InferenceSession.create(new Uint8Array(generator), {executionProviders: ['wasm']});
  },
  code(name) {
    const code = this.codes.get(name), {num_images, rows} = this.about;
    if (code && name !== 'mean' && !name.startsWith('move ')) return code;
    const partly = rows.length < num_images ? `, ${rows.length.toLocaleString('en')} of its run's ${num_images.toLocaleString('en')}` : '';
    throw new Error(`image ${name}: is not in this page; give the index of one on the map${partly}, or name=value`);
  },
  direction(row) {  // of a code from the mean code
    const mean = this.codes.get('mean'), offset = this.code(String(row)).map((value, i) => value - mean[i]), length = norm(offset) || 1;
    return offset.map(value => value / length);
  },
  async made(code, script, output, ...words) {
    const session = await this.session, {Tensor} = this.ort;
    const {images} = await session.run({codes: new Tensor('float32', Float32Array.from(code), [1, code.length])});
    const [, channels, height, width] = images.dims, pixels = new ImageData(width, height);
    for (let i = 0; i < pixels.data.length; i++) {  // ImageData rounds and clips
      const channel = channels === 1 ? 0 : i % 4;
      pixels.data[i] = i % 4 === 3 ? 255 : 127.5 * (images.data[channel * width * height + (i >> 2)] + 1);
    }
    return {image: url(width, context => context.putImageData(pixels, 0, 0)), code, command: this.command(script, output, words.map(String))};
  },
  labels(i) {
    const {attributes, labels} = this.about;
    return Object.entries(attributes).map(([name, values], column) => values[labels[column][i]] && `${name}=${values[labels[column][i]]}`).filter(Boolean);
  },
  command(script, output, typed) {
    if (typed.some(word => this.saved.has(word))) return 'no command: it is made of a code that only this page has';
    const hash = [...typed.join(' ')].reduce((sum, character) => (31 * sum + character.codePointAt()) >>> 0, 7).toString(16);
    const words = ['python', `scripts/${script}.py`, this.about.typed, ...typed, ...this.about.flags, '--output', `${output}-${hash}.png`];
    return words.map(word => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`).join(' ');
  },
  tile(i) {
    return url(this.about.tile, context => map.drawTile(context, i, 0, 0, this.about.tile));
  },
};

// A square picture as a PNG in a data URL.
function url(size, draw) {
  const canvas = element('canvas', {width: size, height: size});
  draw(canvas.getContext('2d'));
  return canvas.toDataURL('image/png');
}

// ---- The answers
const answers = {
  about: () => offline.start(),
  map: () => ({map: offline.about.tsne, work: null}),
  decode: async ({name}) => ({...await offline.made(offline.code(name), 'sample', 'decoded', '--decode', name), name}),
  saved: () => ({saved: [...offline.saved].map(([name, image]) => ({name, image}))}),
  async save({code}) {  // until the page is closed
    const name = `code-${offline.saved.size + 1}`;
    offline.codes.set(name, code);
    offline.saved.set(name, (await offline.made(code)).image);
    return {name};
  },
  async strip({names, path, steps}) {
    const rows = [];
    for (let i = 1; i < names.length; i++) {
      rows.push([]);
      for (let at = 0; at < steps; at++) {
        const part = at / (steps - 1), made = await this.mixed({names: names.slice(i - 1, i + 1), weights: [1 - part, part], path});
        rows.at(-1).push(made.image);
      }
    }
    const pairs = names.slice(1).flatMap((name, i) => [names[i], name]);
    return {rows, command: offline.command('interpolate', 'strip', [...pairs, '--path', path, '--steps', String(steps)])};
  },
  picture(asked) { return asked.moves ? this.moved(asked) : this.mixed(asked); },
  moved({name, moves, amounts}) {
    const code = (name === null ? offline.codes.get('mean') : offline.code(name)).slice();
    moves.forEach((move, at) => offline.codes.get(`move ${move}`).forEach((value, i) => { code[i] += amounts[at] * value; }));
    const words = moves.length ? moves.map((move, i) => `${move}:${amounts[i]}`) : ['1:0'];
    return offline.made(offline.project(code), 'walk', 'walk', ...(name === null ? [] : ['--image', name]), '--move', ...words);
  },
  mixed({names, weights, path}) {
    const codes = names.map(name => offline.code(name)), total = weights.reduce((sum, weight) => sum + weight);
    const whole = codes[weights.indexOf(total)], code = whole || offline.project(mix(codes, weights, path === 'line' ? lerp : slerp));
    return offline.made(code, 'interpolate', 'mix', ...names, '--path', path, '--weights', ...weights);
  },
  async image(row) {
    const {about} = offline, image = about.rows.indexOf(Number(row)), code = offline.direction(row);
    const cosines = about.rows.map((other, i) => [i === image ? -2 : dot(code, offline.direction(other)), i]);
    const near = cosines.sort((a, b) => b[0] - a[0]).slice(0, Math.min(8, cosines.length - 1)).map(([, i]) => ({row: about.rows[i], image: offline.tile(i)}));
    const made = await answers.decode({name: row});
    return {row: Number(row), key: about.keys[image], image: offline.tile(image), made, attributes: offline.labels(image), neighbours: near};
  },
  labels(query) {
    return {numbers: offline.about.labels[Object.keys(offline.about.attributes).indexOf(new URLSearchParams(query).get('name'))]};
  },
  psnr: () => ({psnr: offline.about.psnr}),
  find(query) {
    const text = new URLSearchParams(query).get('text'), {rows, keys} = offline.about;
    const labelled = i => offline.labels(i).some(label => label === text || label.slice(label.indexOf('=') + 1) === text);
    const tests = [i => String(rows[i]) === text, labelled, i => keys[i]?.includes(text)];
    const found = tests.map(test => rows.filter((_, i) => test(i))).find(some => some.length);
    if (!found) throw new Error(`search ${text}: no image of this page has this index, key or label`);
    return {rows: found};
  },
};

source.answer = async (path, asked) => {
  const [name, query] = path.split(/[/?]/);
  return answers[name](asked ?? query);
};

document.head.append(element('style', {textContent: '.save, .slot .button, #strip > .button { display: none !important; }'}));  // these need a server
