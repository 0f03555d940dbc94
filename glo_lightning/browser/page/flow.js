// The flow of the exported page, as in priors/flow.py and explore/flows.py. Batches of codes are flat arrays.
export const PATH = {steps: 8, guidance: 1.25, places: 17, towardsArc: 0.2, evenness: 0.5};
export const MIX = {steps: 24, guidance: 2}, SAMPLE_STEPS = 8;

export class Flow {
  constructor(ort, session, {mean, std, counts}) { Object.assign(this, {ort, session, mean, std, counts}); }
  async velocity(places, time, conditions, guidance) {
    const {Tensor} = this.ort, [dimensions, attributes] = [this.mean.length, Math.max(1, this.counts.length)], batch = places.length / dimensions;
    const labels = BigInt64Array.from(conditions ?? Array(batch * attributes).fill(-1), BigInt);
    const {velocities} = await this.session.run({
      places: new Tensor('float32', places, [batch, dimensions]), time: new Tensor('float32', [time], [1]),
      guidance: new Tensor('float32', [guidance], [1]), conditions: new Tensor('int64', labels, [batch, attributes]),
    });
    return velocities.data;
  }
  // Fourth-order Runge-Kutta from one time to another.
  async carry(places, start, end, steps, field) {
    const length = (end - start) / steps;
    for (let step = 0; step < steps; step++) {
      const slopes = [];
      for (const part of [0, 0.5, 0.5, 1]) {
        const last = slopes.at(-1), at = last ? places.map((value, i) => value + part * length * last[i]) : places;
        slopes.push(await field(at, start + (step + part) * length));
      }
      const [a, b, c, d] = slopes;
      places = places.map((value, i) => value + length / 6 * (a[i] + 2 * b[i] + 2 * c[i] + d[i]));
    }
    return places;
  }
  // The noises of codes, and the codes of noises; both are lists of arrays.
  async encode(codes, {guidance, steps}) {
    const scaled = codes.map(code => code.map((value, i) => (value - this.mean[i]) / this.std[i]));
    return this.split(await this.carry(flat(scaled), 1, 0, steps, (places, time) => this.velocity(places, time, null, guidance)));
  }
  async decode(noises, {guidance, steps}, labels = null, base = null) {
    const carried = await this.carry(flat(noises), 0, 1, steps, async (places, time) => {
      const guided = await this.velocity(places, time, labels, guidance);
      if (!base) return guided;  // chosen labels count twice
      const [chosen, rest] = [await this.velocity(places, time, labels, 1), await this.velocity(places, time, base, 1)];
      return guided.map((value, i) => value + chosen[i] - rest[i]);
    });
    return this.split(carried).map(code => code.map((value, i) => this.mean[i] + this.std[i] * value));
  }
  split(places) {
    const size = this.mean.length;
    return Array.from({length: places.length / size}, (_, i) => Float64Array.from(places.subarray(i * size, (i + 1) * size)));
  }
  // Codes of the page's own random numbers; `chosen` are the numbers of labels, -1 where they are drawn by their frequencies.
  sample(num, seed, temperature, guidance, chosen) {
    const random = randomNumbers(seed), normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const noises = Array.from({length: num}, () => Float64Array.from(this.mean, () => temperature * normal()));
    const drawn = this.counts.length ? noises.flatMap(() => this.counts.map(counts => draw(counts, random()))) : null;
    const of = i => chosen[i % chosen.length], options = {guidance: this.counts.length ? guidance : MIX.guidance, steps: SAMPLE_STEPS};
    if (!chosen.some(label => label >= 0)) return this.decode(noises, options, drawn);
    return this.decode(noises, options, drawn.map((label, i) => of(i) < 0 ? label : of(i)), drawn.map((label, i) => of(i) < 0 ? label : -1));
  }
}

const flat = codes => Float32Array.from(codes.flatMap(code => [...code]));

// An index by its count, at a place from 0 to 1 among all; -1 without any.
function draw(counts, place) {
  let left = place * counts.reduce((sum, count) => sum + count, 0);
  return counts.findIndex(count => (left -= count) < 0);
}

// mulberry32: numbers from 0 to 1, the same for the same seed.
function randomNumbers(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ seed >>> 15, 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed)) ^ mixed;
    return ((mixed ^ mixed >>> 14) >>> 0) / 2 ** 32;
  };
}
