import {$, about, element, say, send, show, strokes, wait} from './common.js';

export const filler = {
  name: null,
  start() {
    const canvas = $('#fill canvas'), file = $('#fill input[type=file]');
    this.context = canvas.getContext('2d');
    for (const each of [canvas, this.mask = element('canvas')]) each.width = each.height = about.image_size;
    this.mask = this.mask.getContext('2d');
    const paint = event => {
      const scale = about.image_size / canvas.clientWidth, brush = new Path2D();
      brush.arc(event.offsetX * scale, event.offsetY * scale, +$('#brush').value, 0, 7);
      this.mask.fillStyle = 'black';
      this.mask.fill(brush);
      this.draw();
    };
    strokes(canvas, paint);
    file.onchange = async () => {
      const sent = await send($('#fill-in'), file);
      if (!sent) return;
      [this.name, this.image] = [sent.name, element('img', {src: sent.image})];
      this.image.decode().then(() => this.clear());
    };
    $('#clear').onclick = () => this.clear();
    $('#fill-in').onclick = async () => {
      if (!this.name) return say('choose an image first');
      show('fill', await wait($('#fill-in'), 'fill', {name: this.name, mask: this.url.split(',')[1]}));
    };
    $('#mask').onclick = () => { $('#mask').href = this.url; };
    this.clear();
  },
  clear() {
    this.mask.fillStyle = 'white';
    this.mask.fillRect(0, 0, about.image_size, about.image_size);
    this.draw();
  },
  // The mask: known pixels white, painted ones black. A brush has soft edges, a mask has none.
  get url() {
    const pixels = this.mask.getImageData(0, 0, about.image_size, about.image_size);
    for (let i = 0; i < pixels.data.length; i++) if (i % 4 < 3) pixels.data[i] = pixels.data[i] > 127 ? 255 : 0;
    this.mask.putImageData(pixels, 0, 0);
    return this.mask.canvas.toDataURL('image/png');
  },
  draw() {
    const {context} = this;
    context.globalCompositeOperation = 'source-over';
    context.clearRect(0, 0, about.image_size, about.image_size);
    if (this.image) context.drawImage(this.image, 0, 0);
    context.globalCompositeOperation = 'multiply';
    context.drawImage(this.mask.canvas, 0, 0);
  },
};
