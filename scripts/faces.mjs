// Draws cartoon faces for make_faces.py, which starts it: answers each line of its input on its output, in order.
//
// A line is JSON: {"seed": "...", "options": {...}, "size": 64}, the seed and the options of DiceBear's open-peeps. The
// answer is a line of JSON, the visible attributes, and, where a size was given, size * size RGBA pixels after it.
import { createInterface } from 'node:readline';
import { createAvatar } from '@dicebear/core';
import { openPeeps } from '@dicebear/collection';
import { Resvg } from '@resvg/resvg-js';

const BACKGROUNDS = ['b6e3f4', 'c0aede', 'd1d4f9', 'ffd5dc', 'ffdfbf'];

const avatar = (seed, options) => createAvatar(openPeeps, { backgroundColor: BACKGROUNDS, ...options, seed });
const draw = (svg, size) => new Resvg(svg, { fitTo: { mode: 'width', value: size } }).render().pixels;

// What can be seen: the contrast colour is part of few heads and beards, and a mask may hide a beard.
function attributes(seed, options, face) {
  const extra = face.toJson().extra;
  const svg = face.toString();
  const same = (changed) => Buffer.compare(draw(svg, 64), draw(avatar(seed, { ...options, ...changed }).toString(), 64)) === 0;
  const contrast = svg.includes(extra.headContrastColor);
  const hidden = extra.mask && extra.facialHair && same({ facialHairProbability: 0 });
  return {
    head: extra.head,
    face: extra.face,
    glasses: extra.accessories ?? '',
    beard: hidden ? '' : extra.facialHair ?? '',
    mask: extra.mask ?? '',
    skin: extra.skinColor.slice(1),
    clothes: extra.clothingColor.slice(1),
    background: extra.primaryBackgroundColor.slice(1),
    contrast: contrast ? extra.headContrastColor.slice(1) : '',
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { seed, options, size } = JSON.parse(line);
  const face = avatar(seed, options);
  process.stdout.write(JSON.stringify(attributes(seed, options, face)) + '\n');
  if (size) process.stdout.write(draw(face.toString(), size));
}
