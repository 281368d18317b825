/** The slots of the last hour: as many as there are in an hour, and the open one. */

/** @typedef {[start: number, requests: number, hits: number, lookups: number, errors: number,
 *             p50: number | null, p95: number | null, p99: number | null]} Slot */
/** @typedef {{start: number, requests: number, hits: number, lookups: number, errors: number}} Bin */

const HOUR = 3600;

export class History {
  /** @type {Map<number, Slot>} */
  #slots = new Map();
  #seconds = 10;
  #newest = 0;

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
      this.#slots.set(slot[0], slot);
      this.#newest = Math.max(this.#newest, slot[0]);
    }
    for (const start of this.#slots.keys()) {
      if (start < this.from) this.#slots.delete(start);
    }
  }

  /** How many slots are in memory. */
  get held() {
    return this.#slots.size;
  }

  /** The end of the open slot, Unix seconds. */
  get to() {
    return this.#newest + this.#seconds;
  }

  /** The start of the hour before that. */
  get from() {
    return this.to - HOUR;
  }

  /** @returns {Slot[]} oldest first, with null percentiles where nothing was */
  slots() {
    const all = [];
    for (let start = this.from; start < this.to; start += this.#seconds) {
      all.push(this.#slots.get(start) ?? [start, 0, 0, 0, 0, null, null, null]);
    }
    return /** @type {Slot[]} */ (all);
  }

  /**
   * Sums of what fell into the same *seconds*, which begin where the clock's do, so that a bar
   * does not change its neighbours as it moves.
   * @param {number} seconds
   * @returns {Bin[]} oldest first
   */
  bins(seconds) {
    /** @type {Map<number, Bin>} */
    const bins = new Map();
    for (const [at, requests, hits, lookups, errors] of this.slots()) {
      const start = Math.floor(at / seconds) * seconds;
      const bin = bins.get(start) ?? { start, requests: 0, hits: 0, lookups: 0, errors: 0 };
      bin.requests += requests;
      bin.hits += hits;
      bin.lookups += lookups;
      bin.errors += errors;
      bins.set(start, bin);
    }
    return [...bins.values()];
  }
}
