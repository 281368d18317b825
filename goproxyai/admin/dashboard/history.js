/**
 * The slots of the last hour, the open slot included, and the bins that the charts show.
 *
 * The daemon's timer starts slots at intervals that differ from ten seconds by a few milliseconds.
 * Slots are therefore numbered from the first one received and drawn at even intervals. Otherwise,
 * some slots would be drawn in the bar of their neighbour.
 */

/** @typedef {[start: number, requests: number, hits: number, lookups: number, errors: number,
 *             limited: number, p50: number | null, p95: number | null, p99: number | null]} Slot */
/** @typedef {{start: number, requests: number, hits: number, lookups: number, errors: number,
 *             limited: number, weight: number, latencies: number[]}} Bin latencies: weighted sums of p50, p95, p99 */

const HOUR = 3600;

export class History {
  /** @type {Map<number, Slot>} */
  #slots = new Map();
  #seconds = 10;
  #first = 0; // start of slot number 0, Unix seconds
  #newest = 0; // slot number

  /** Drop all slots: after a reconnect, the daemon may be another process. */
  clear() {
    this.#slots.clear();
    this.#newest = 0;
  }

  /**
   * @param {Slot[]} slots
   * @param {number} [seconds] length of a slot
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

  /** Number of slots in memory. */
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

  /** @param {number} range seconds @returns {number} Unix seconds, the range before `to` */
  from(range) {
    return this.#start(this.#firstOf(range));
  }

  /** @param {number} range seconds @returns {number} the slot that the range starts with */
  #firstOf(range) {
    return this.#newest - range / this.#seconds + 1;
  }

  /**
   * @param {number} [range] seconds
   * @returns {Slot[]} oldest first; slots without requests have null percentiles
   */
  slots(range = HOUR) {
    const all = [];
    for (let number = this.#firstOf(range); number <= this.#newest; number += 1) {
      const [, ...counts] = this.#slots.get(number) ?? [0, 0, 0, 0, 0, null, null, null];
      all.push([this.#start(number), ...counts]);
    }
    return /** @type {Slot[]} */ (all);
  }

  /**
   * Sums of some slots that follow each other, always the same ones, so that a bar does not change
   * as it moves. Percentiles cannot be added; what is shown of them is the mean, by requests.
   * @param {number} seconds length of a bin
   * @param {number} [range] seconds
   * @returns {Bin[]} oldest first
   */
  bins(seconds, range = HOUR) {
    const each = seconds / this.#seconds;
    /** @type {Map<number, Bin>} */
    const bins = new Map();
    const oldest = this.#firstOf(range);
    this.slots(range).forEach(([, requests, hits, lookups, errors, limited, ...latencies], place) => {
      const number = Math.floor((oldest + place) / each);
      const start = this.#start(number * each);
      const bin = bins.get(number) ?? empty(start);
      bin.requests += requests;
      bin.hits += hits;
      bin.lookups += lookups;
      bin.errors += errors;
      bin.limited += limited;
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
  return {
    start, requests: 0, hits: 0, lookups: 0, errors: 0, limited: 0, weight: 0, latencies: [0, 0, 0],
  };
}

/**
 * @param {Bin} bin
 * @returns {(number | null)[]} its p50, p95 and p99, in milliseconds
 */
export function latencies(bin) {
  return bin.latencies.map((sum) => (bin.weight ? sum / bin.weight : null));
}
