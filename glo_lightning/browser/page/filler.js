import {$, about, ask, element, remember, say, send, show, strokes, wait} from './common.js';

const SIDE = 512, MAX_UNDONE = 50;  // pixels of the canvas; strokes that can be undone

export const filler = {
  strokes: [], cursor: null, made: null,
  start() {
    const canvas = $('#fill canvas'), file = $('#fill input[type=file]');
    [canvas.width, canvas.height] = [SIDE, SIDE];
    this.context = canvas.getContext('2d');
    const [mask, hatched] = [about.image_size, SIDE].map(size => element('canvas', {width: size, height: size}).getContext('2d', {willReadFrequently: true}));
    Object.assign(this, {mask, hatched, hatch: hatched.createPattern(hatch(), 'repeat')});
    const at = event => [event.offsetX, event.offsetY].map(value => value * about.image_size / canvas.clientWidth);
    strokes(canvas, event => {
      if (event.type === 'pointerdown') this.begin();
      this.paint(...at(event));
    });
    canvas.onpointerup = () => this.keep();
    canvas.onkeydown = event => this.key(event);
    canvas.onblur = () => { this.cursor = null; this.draw(); };
    file.onchange = async () => this.use(await send($('#fill-in'), file));
    $('#target').onsubmit = event => { event.preventDefault(); this.take(event.target.elements.name.value.trim()); };
    $('#undo').onclick = () => this.undo();
    $('#clear').onclick = () => { this.begin(); this.mask.clearRect(0, 0, about.image_size, about.image_size); this.draw(); this.keep(); };
    $('#fill-in').onclick = () => this.fill();
    $('#mask').onclick = () => { $('#mask').href = this.url; };
  },
  // What the address says; without any the first image of the map.
  async restore({image}, {mask, made}) {
    await this.take(image ?? (about.has_images ? String(about.rows[0]) : ''));
    if (!mask) return;
    const painted = element('img', {src: mask});
    await painted.decode();
    this.mask.drawImage(painted, 0, 0);
    this.draw();
    this.result(made);
  },
  async take(name) { this.use(name ? await ask('target', {name}) : null); },
  use(target) {
    if (!target) return;
    [this.target, this.image] = [target, element('img', {src: target.image})];
    $('#target input').value = target.name;
    Object.assign($('#image'), {href: target.image, download: target.file, textContent: `Save ${target.file}`, hidden: target.name.startsWith('upload-')});
    this.mask.clearRect(0, 0, about.image_size, about.image_size);
    this.strokes = [];
    this.result(null);
    return this.image.decode().then(() => this.draw());
  },
  begin() {
    this.strokes = [...this.strokes, this.mask.getImageData(0, 0, about.image_size, about.image_size)].slice(-MAX_UNDONE);
  },
  undo() {
    const before = this.strokes.pop();
    if (!before) return;
    this.mask.putImageData(before, 0, 0);
    this.draw();
    this.keep();
  },
  paint(x, y) {
    const brush = new Path2D();
    brush.arc(x, y, +$('#brush').value, 0, 7);
    this.mask.globalCompositeOperation = $('#eraser').checked ? 'destination-out' : 'source-over';
    this.mask.fill(brush);
    this.mask.globalCompositeOperation = 'source-over';
    this.draw();
  },
  // By the keyboard: arrows move the brush, the space bar paints.
  key(event) {
    const step = event.shiftKey ? 8 : 2, moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step]};
    const [undone, size] = [event.key === 'z' && (event.ctrlKey || event.metaKey), about.image_size];
    if (!moves[event.key] && event.key !== ' ' && !undone) return;
    event.preventDefault();
    if (undone) return this.undo();
    const [x, y] = this.cursor ?? [size / 2, size / 2], [dx, dy] = moves[event.key] ?? [0, 0];
    this.cursor = [x + dx, y + dy].map(value => Math.min(size, Math.max(0, value)));
    if (event.key !== ' ') return this.draw();
    this.begin();
    this.paint(...this.cursor);
    this.keep();
  },
  // The mask: known pixels white, painted ones black. A brush has soft edges, a mask has none.
  get url() {
    const size = about.image_size, pixels = this.mask.getImageData(0, 0, size, size), {data} = pixels;
    for (let i = 0; i < data.length; i += 4) data.fill(data[i + 3] > 127 ? 0 : 255, i, i + 3).fill(255, i + 3, i + 4);
    const canvas = element('canvas', {width: size, height: size});
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    return canvas.toDataURL('image/png');
  },
  get painted() { return this.mask.getImageData(0, 0, about.image_size, about.image_size).data.some((value, i) => i % 4 === 3 && value > 127); },
  draw() {
    const {context, hatched, mask} = this, scale = SIDE / about.image_size;
    for (const each of [context, hatched]) { each.clearRect(0, 0, SIDE, SIDE); each.imageSmoothingEnabled = false; }
    if (this.image) context.drawImage(this.image, 0, 0, SIDE, SIDE);
    hatched.globalCompositeOperation = 'source-over';
    hatched.drawImage(mask.canvas, 0, 0, SIDE, SIDE);
    hatched.globalCompositeOperation = 'source-in';
    hatched.fillStyle = this.hatch;
    hatched.fillRect(0, 0, SIDE, SIDE);
    context.drawImage(hatched.canvas, 0, 0);
    if (!this.cursor) return;
    for (const [colour, width] of [['black', 4], ['white', 2]]) {
      [context.strokeStyle, context.lineWidth] = [colour, width];
      context.beginPath();
      context.arc(this.cursor[0] * scale, this.cursor[1] * scale, +$('#brush').value * scale, 0, 7);
      context.stroke();
    }
  },
  async fill() {
    if (!this.target) return say('choose an image first');
    if (!this.painted) return say('nothing is painted: paint over the part to fill in');
    const target = this.target, made = await wait($('#fill-in'), 'fill', {name: target.name, mask: this.url.split(',')[1]});
    if (made && target === this.target) this.result(made);
  },
  result(made) {
    this.made = made;
    $('#fill aside').hidden = !made;
    $('#fill-note').textContent = made?.note ?? '';
    show('fill', made, 'filled in', {image: this.target.image, caption: 'before'});
    this.keep();
  },
  keep() { remember('fill', {image: this.target.name}, {mask: this.painted ? this.mask.canvas.toDataURL() : '', made: this.made}); },
};

// Stripes of two colours, one of which is seen on any picture.
function hatch() {
  const canvas = element('canvas', {width: 16, height: 16}), context = canvas.getContext('2d');
  context.fillStyle = 'rgb(255 0 200 / 75%)';
  context.fillRect(0, 0, 16, 16);
  [context.strokeStyle, context.lineWidth] = ['rgb(255 255 255 / 90%)', 4];
  for (const x of [-8, 0, 8, 16, 24]) { context.moveTo(x - 8, 24); context.lineTo(x + 24, -8); }
  context.stroke();
  return canvas;
}
