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
import {Flow, MIX, PATH} from './flow.js';
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

// On the line between two codes, with a length between theirs.
function between(start, end, part) {
  const line = lerp(start, end, part), length = (norm(start) + part * (norm(end) - norm(start))) / (norm(line) || 1);
  return line.map(value => value * length);
}

// The code at a part of a path; see paths.resample_path.
function resample(path, part) {
  const lengths = [0], last = path.length - 1;
  for (let i = 1; i <= last; i++) lengths.push(lengths[i - 1] + norm(path[i].map((value, d) => value - path[i - 1][d])));
  const places = lengths.map((length, i) => i / last + PATH.evenness * (length / (lengths[last] || 1) - i / last));
  const next = Math.max(1, places.findIndex((place, i) => place >= part || i === last));
  const fraction = (part - places[next - 1]) / (places[next] - places[next - 1] || 1);
  return between(path[next - 1], path[next], Math.min(1, Math.max(0, fraction)));
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
    this.session = this.startGenerator();
    this.session.catch(() => {});  // reported when a picture is asked for
    const [about, codes] = await Promise.all(['about', 'codes'].map(embedded));
    this.about = JSON.parse(new TextDecoder().decode(about));
    const {rows, directions, means} = this.about;
    const names = [...rows, 'mean', ...directions.map(name => `move ${name}`), ...means], halves = new Uint16Array(codes);
    const dimensions = halves.length / names.length;
    this.codes = new Map(names.map((name, i) => [String(name), Float64Array.from(halves.subarray(i * dimensions, (i + 1) * dimensions), half)]));
    this.project = PROJECTIONS[this.about.constraint];
    const missing = this.about.flow ? ['fill'] : ['fill', 'sample'];
    for (const part of missing) for (const each of [`[data-tab=${part}]`, `#${part}`]) $(each).remove();
    return this.about;
  },
  async startGenerator() {
    const [runtime, wasm, generator] = await Promise.all(['runtime', 'wasm', 'generator'].map(embedded));
    this.ort = await import(URL.createObjectURL(new Blob([runtime], {type: 'text/javascript'})));
    Object.assign(this.ort.env.wasm, {wasmBinary: wasm, numThreads: 1});  // a local file has no memory that threads can share
    return this.ort.InferenceSession.create(new Uint8Array(generator), {executionProviders: ['wasm']});
  },
  // Along the flow mixes share the path between two images or, of more images, their noises.
  shared: new Map(),
  async flowMix(names, codes, weights) {
    const key = JSON.stringify(names);
    this.flow ??= this.startFlow();
    const flow = await this.flow;
    if (!this.shared.has(key)) this.shared.set(key, codes.length === 2 ? this.path(flow, ...codes) : flow.encode(codes, MIX));
    const shared = await this.shared.get(key);
    if (codes.length === 2) return resample(shared, weights[1] / (weights[0] + weights[1]));
    return this.project((await flow.decode([mix(shared, weights, slerp)], MIX))[0]);
  },
  async path(flow, start, end) {
    const fractions = Array.from({length: PATH.places}, (_, i) => i / (PATH.places - 1)), noises = await flow.encode([start, end], PATH);
    const learned = await flow.decode(fractions.map(part => slerp(...noises, part)), PATH);
    const inner = learned.map((code, i) => this.project(between(code, slerp(start, end, fractions[i]), PATH.towardsArc)));
    return [start, ...inner.slice(1, -1), end];
  },
  async startFlow() {
    await this.session;  // which starts the runtime
    const session = await this.ort.InferenceSession.create(new Uint8Array(await embedded('flow')), {executionProviders: ['wasm']});
    return new Flow(this.ort, session, this.about.flow);
  },
  code(name) {
    const {num_images, rows, means} = this.about;
    const code = this.codes.get(name) ?? this.codes.get(means.find(label => label.slice(label.indexOf('=') + 1) === name));
    if (code && name !== 'mean' && !name.startsWith('move ')) return code;
    const partly = rows.length < num_images ? `, ${rows.length.toLocaleString('en')} of its run's ${num_images.toLocaleString('en')}` : '';
    throw new Error(`image ${name}: is not in this page; give the index of one on the map${partly}, or name=value`);
  },
  direction(code) {  // from the mean code
    const mean = this.codes.get('mean'), offset = code.map((value, i) => value - mean[i]), length = norm(offset) || 1;
    return offset.map(value => value / length);
  },
  // The images nearest by code, but for the image itself.
  nearest(code, number, itself = null) {
    const direction = this.direction(code), {rows} = this.about;
    const cosines = rows.map((row, i) => [row === itself ? -2 : dot(direction, this.direction(this.code(String(row)))), i]);
    const near = cosines.sort((a, b) => b[0] - a[0]).slice(0, Math.min(number, rows.length - 1));
    return near.map(([, i]) => ({row: rows[i], image: this.tile(i), by: 'code'}));
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
    if (!script) return '';
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
  async mixed({names, weights, path}) {
    const codes = names.map(name => offline.code(name)), total = weights.reduce((sum, weight) => sum + weight);
    const straight = path === 'line' ? lerp : slerp, whole = codes[weights.indexOf(total)];
    const code = whole ?? (path === 'flow' ? await offline.flowMix(names, codes, weights) : offline.project(mix(codes, weights, straight)));
    return offline.made(code, 'interpolate', 'mix', ...names, '--path', path, '--weights', ...weights);
  },
  async samples({num, seed, temperature, guidance, conditions, neighbours = true}) {
    offline.flow ??= offline.startFlow();
    const flow = await offline.flow, {attributes} = offline.about, samples = [];
    const chosen = Object.entries(attributes).map(([name, values]) => {
      const condition = conditions.find(each => each.startsWith(`${name}=`));
      return condition === undefined ? -1 : values.indexOf(condition.slice(name.length + 1));
    });
    for (const code of await flow.sample(num, seed, temperature, guidance, chosen)) {
      samples.push({...await offline.made(offline.project(code)), near: neighbours ? offline.nearest(code, 1) : [], command: 'no command: it was drawn by this page itself'});
    }
    return {samples};
  },
  async image(row) {
    const {about} = offline, image = about.rows.indexOf(Number(row)), near = offline.nearest(offline.code(row), 8, Number(row));
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
