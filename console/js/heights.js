// The heights of the rows of a long list: sums and searches in logarithmic time, a few bytes a row.

/** Heights of rows, estimated until they are measured. */
export class Heights {
  /** @param {number} estimate height of a row that was not measured, in pixels */
  constructor(estimate) {
    this.estimate = estimate;
    this.count = 0;
    this.#allocate(1_024);
  }

  /** @type {Float64Array} */ #each;
  /** @type {Float64Array} sums of a Fenwick tree */ #sums;

  /** @param {number} capacity */
  #allocate(capacity) {
    const old = this.#each;
    this.#each = new Float64Array(capacity);
    if (old) this.#each.set(old.subarray(0, this.count));
    this.#sum();
  }

  #sum() {
    const sums = new Float64Array(this.#each.length + 1);
    for (let index = 1; index < sums.length; index++) {
      sums[index] += this.#each[index - 1];
      const parent = index + (index & -index);
      if (parent < sums.length) sums[parent] += sums[index];
    }
    this.#sums = sums;
  }

  /** Changes the number of rows. @param {number} count */
  resize(count) {
    const capacity = this.#each.length;
    if (count > capacity) this.#allocate(Math.max(count, capacity * 2));
    if (Math.abs(count - this.count) < 16) {
      for (let index = this.count; index < count; index++) this.set(index, this.estimate);
      for (let index = count; index < this.count; index++) this.set(index, 0);
    } else {
      this.#each.fill(0, count);
      if (count > this.count) this.#each.fill(this.estimate, this.count, count);
      this.#sum();
    }
    this.count = count;
  }

  /** Forgets what was measured. */
  reset() {
    this.#each.fill(this.estimate, 0, this.count);
    this.#sum();
  }

  /** @param {number} index */
  get(index) {
    return this.#each[index];
  }

  /** @param {number} index @param {number} height */
  set(index, height) {
    const change = height - this.#each[index];
    if (change === 0) return;
    this.#each[index] = height;
    for (let at = index + 1; at < this.#sums.length; at += at & -at) this.#sums[at] += change;
  }

  /** The height of all rows before an index. @param {number} index */
  top(index) {
    let sum = 0;
    for (let at = Math.min(index, this.count); at > 0; at -= at & -at) sum += this.#sums[at];
    return sum;
  }

  get total() {
    return this.top(this.count);
  }

  /** The row at a distance from the top. @param {number} distance */
  at(distance) {
    let index = 0;
    let rest = distance;
    let step = 1 << Math.floor(Math.log2(this.#sums.length - 1));
    for (; step > 0; step >>= 1) {
      if (index + step < this.#sums.length && this.#sums[index + step] <= rest) {
        index += step;
        rest -= this.#sums[index];
      }
    }
    return Math.max(0, Math.min(index, this.count - 1));
  }
}
