/**
 * The slots of the last hour: as many as there are in an hour, and the open one.
 *
 * A slot starts when the daemon notes one down, some milliseconds more or less than ten seconds
 * after the one before. So slots are numbered from the first that came, and shown at even distances;
 * else one would now and then fall into its neighbour's bar.
 */

/** @typedef {[start: number, requests: number, hits: number, lookups: number, errors: number,
 *             p50: number | null, p95: number | null, p99: number | null]} Slot */
/** @typedef {{start: number, requests: number, hits: number, lookups: number, errors: number,
 *             weight: number, latencies: number[]}} Bin latencies: sums, by weight, of p50, p95, p99 */

const HOUR = 3600;

export class History {
  /** @type {Map<number, Slot>} */
  #slots = new Map();
  #seconds = 10;
  #first = 0; // Unix seconds, where number 0 starts
  #newest = 0; // a number

  /** Another connection may be to another process, with another past. */
  forget() {
    this.#slots.clear();
    this.#newest = 0;
  }

  /**
   * @param {Slot[]} slots
   * @param {number} [seconds] that a slot is long
   */
  add(slots, seconds = this.#seconds) {
    this.#seconds = seconds;
    for (const slot of slots) {
      if (!this.#slots.size) this.#first = slot[0];
      const number = Math.round((slot[0] - this.#first) / seconds);
      this.#slots.set(number, slot);
      this.#newest = Math.max(this.#newest, number);
    }
    for (const number of this.#slots.keys()) {
      if (number < this.#oldest) this.#slots.delete(number);
    }
  }

  /** How many slots are in memory. */
  get held() {
    return this.#slots.size;
  }

  get #oldest() {
    return this.#newest - HOUR / this.#seconds + 1;
  }

  /** @param {number} number */
  #start(number) {
    return this.#first + number * this.#seconds;
  }

  /** The end of the open slot, Unix seconds. */
  get to() {
    return this.#start(this.#newest + 1);
  }

  /** The start of the hour before that. */
  get from() {
    return this.#start(this.#oldest);
  }

  /** @returns {Slot[]} oldest first, with null percentiles where nothing was */
  slots() {
    const all = [];
    for (let number = this.#oldest; number <= this.#newest; number += 1) {
      const [, ...counts] = this.#slots.get(number) ?? [0, 0, 0, 0, 0, null, null, null];
      all.push([this.#start(number), ...counts]);
    }
    return /** @type {Slot[]} */ (all);
  }

  /**
   * Sums of some slots that follow each other, always the same ones, so that a bar does not change
   * as it moves. Percentiles cannot be added; what is shown of them is the mean, by requests.
   * @param {number} seconds
   * @returns {Bin[]} oldest first
   */
  bins(seconds) {
    const each = seconds / this.#seconds;
    /** @type {Map<number, Bin>} */
    const bins = new Map();
    this.slots().forEach(([, requests, hits, lookups, errors, ...latencies], place) => {
      const number = Math.floor((this.#oldest + place) / each);
      const start = this.#start(number * each);
      const bin = bins.get(number) ?? empty(start);
      bin.requests += requests;
      bin.hits += hits;
      bin.lookups += lookups;
      bin.errors += errors;
      if (latencies[0] !== null) {
        bin.weight += requests || 1;
        latencies.forEach((value, column) => {
          bin.latencies[column] += (requests || 1) * (value ?? 0);
        });
      }
      bins.set(number, bin);
    });
    return [...bins.values()];
  }
}

/**
 * @param {number} start
 * @returns {Bin}
 */
function empty(start) {
  return { start, requests: 0, hits: 0, lookups: 0, errors: 0, weight: 0, latencies: [0, 0, 0] };
}

/**
 * @param {Bin} bin
 * @returns {(number | null)[]} its p50, p95 and p99, in milliseconds
 */
export function latencies(bin) {
  return bin.latencies.map((sum) => (bin.weight ? sum / bin.weight : null));
}
