/** The three charts of the time range. */

import { bars, draw, line, linear, logarithmic, PlotArea, RATIO } from "./charts.js";
import { clock, count, counted, milliseconds, minute, percent } from "./format.js";
import { latencies } from "./history.js";
import { byId, set, write } from "./page.js";

/** @import { Bin, History } from "./history.js" */
/** @typedef {{requests: number, hits: number, lookups: number, errors: number, limited: number,
 *             latency: {total: (number | null)[]}}} Totals of the time range */

const SUMMARY_MS = 10_000; // interval of the text alternatives for screen readers
const ERRORS = 3; // place of the errors among the parts of a bar
const MIN_ERROR_SHARE = 0.02; // of the height: a bar with a single error is visible

/**
 * Seconds of a bar: 90 to 120 bars are distinguishable on a phone.
 * @param {number} range
 */
const barSeconds = (range) => (range > 900 ? 30 : 10);

/**
 * Seconds of a point: with shorter bins, the line jumps at low request rates.
 * @param {number} range
 */
const pointSeconds = (range) => (range > 900 ? 60 : range > 300 ? 30 : 10);

/** @param {number} seconds */
const each = (seconds) => (seconds === 60 ? "per minute" : `per ${seconds} s`);

/** A figure: plot area, legend with the values at the pointer, and text alternative. */
class Chart {
  #pointer = /** @type {number | null} */ (null);
  #summarizedAt = -Infinity;
  #summarized = 0;
  range = 900;

  /**
   * @param {string} id
   * @param {string[]} series classes of the paths, in drawing order
   */
  constructor(id, series) {
    const figure = byId(id);
    this.svg = /** @type {SVGSVGElement} */ (figure.querySelector("svg.plot"));
    this.unit = /** @type {Element} */ (figure.querySelector("small"));
    this.area = new PlotArea(this.svg);
    this.paths = series.map((name) => draw(this.area.marks, "path", { class: name }));
    this.when = /** @type {Element} */ (figure.querySelector(".when"));
    this.values = [...figure.querySelectorAll(".legend b")];
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
  }

  /** @param {number | null} x */
  #point(x) {
    this.#pointer = x;
    this.legend();
  }

  /**
   * @param {History} history
   * @param {Totals} totals
   * @param {number} range seconds
   */
  show(history, totals, range) {
    this.history = history;
    this.totals = totals;
    this.range = range;
    this.paint(history);
    this.legend();
    const isDue = performance.now() - this.#summarizedAt >= SUMMARY_MS;
    if (isDue || this.#summarized !== range) {
      [this.#summarizedAt, this.#summarized] = [performance.now(), range];
      set(this.svg, "aria-label", `${this.summary(history, totals)}`);
    }
  }

  /** The time range in words. */
  get words() {
    return `the last ${this.range / 60} minutes`;
  }

  /** Show the values at the pointer, or those of the whole time range. */
  legend() {
    if (!this.history || !this.totals) return;
    const time = this.#pointer === null ? null : this.area.time(this.#pointer);
    this.area.point(time);
    const [when, values] = time === null
      ? [`last ${this.range / 60} min`, this.whole(this.totals)]
      : this.at(this.history, time);
    write(this.when, when);
    this.values.forEach((node, number) => write(node, values[number]));
  }

  /** @param {History} history */
  paint(history) {}

  /**
   * @param {Totals} totals
   * @returns {string[]} one value per series
   */
  whole(totals) {
    return [];
  }

  /**
   * @param {History} history
   * @param {number} time
   * @returns {[string, string[]]} the time of the bin, and one value per series
   */
  at(history, time) {
    return ["", []];
  }

  /**
   * @param {History} history
   * @param {Totals} totals
   */
  summary(history, totals) {
    return "";
  }
}

/**
 * @param {Bin[]} bins
 * @param {number} time
 */
function binAt(bins, time) {
  return bins.findLast(({ start }) => start <= time) ?? bins[0];
}

/**
 * Requests that were answered from the cache, others, those that the rate limit refused, and errors.
 * @param {{requests: number, hits: number, errors: number, limited: number}} counts
 */
function parts({ requests, hits, errors, limited }) {
  return [hits, Math.max(0, requests - hits - errors - limited), limited, errors];
}

class Requests extends Chart {
  constructor() {
    super("chart-requests", ["fill-hits", "fill-others", "fill-limited", "fill-errors"]);
  }

  /** @param {History} history */
  #bins(history) {
    return history.bins(barSeconds(this.range), this.range);
  }

  /** @param {History} history */
  paint(history) {
    const seconds = barSeconds(this.range);
    write(this.unit, each(seconds));
    const bins = this.#bins(history);
    const scale = linear(Math.max(...bins.map((bin) => bin.requests)), count);
    this.area.frame(history.from(this.range), history.to, scale.ticks);
    /** @type {[number, number, number][][]} */
    const spans = this.paths.map(() => []);
    for (const bin of bins) {
      let low = 0;
      parts(bin).forEach((requests, number) => {
        const least = requests && number === ERRORS ? MIN_ERROR_SHARE : 0;
        const high = Math.min(1, low + Math.max(scale.share(requests), least));
        spans[number].push([bin.start, low, high]);
        low = high;
      });
    }
    spans.forEach((span, number) => set(this.paths[number], "d", bars(this.area, seconds, span)));
  }

  /** @param {Totals} totals */
  whole(totals) {
    return parts(totals).map(count);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(this.#bins(history), time);
    return [clock(bin.start), parts(bin).map(count)];
  }

  /** @param {History} history @param {Totals} totals */
  summary(history, totals) {
    const seconds = barSeconds(this.range);
    const peakBin = this.#bins(history)
      .reduce((one, other) => (other.requests > one.requests ? other : one));
    const peak = peakBin.requests
      ? ` Peak: ${count(peakBin.requests)} in ${seconds} seconds, at ${minute(peakBin.start)}.`
      : "";
    return (
      `Requests over ${this.words}: ${count(totals.requests)}, of them ${count(totals.hits)} ` +
      `answered from the cache, ${count(totals.limited)} refused by the rate limit; ` +
      `${counted(totals.errors, "error")}.${peak}`
    );
  }
}

class Ratio extends Chart {
  constructor() {
    super("chart-ratio", ["line-first"]);
  }

  /** @param {History} history */
  paint(history) {
    const seconds = pointSeconds(this.range);
    write(this.unit, each(seconds));
    this.area.frame(history.from(this.range), history.to, RATIO.ticks);
    const points = history.bins(seconds, this.range).map((bin) => [
      bin.start + seconds / 2, bin.lookups ? bin.hits / bin.lookups : null,
    ]);
    set(this.paths[0], "d", line(this.area, /** @type {any} */ (points)));
  }

  /** @param {Totals} totals */
  whole(totals) {
    return [percent(totals.hits, totals.lookups)];
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(pointSeconds(this.range), this.range), time);
    return [clock(bin.start), [percent(bin.hits, bin.lookups)]];
  }

  /** @param {History} _ @param {Totals} totals */
  summary(_, totals) {
    return (
      `Hit ratio over ${this.words}: ${percent(totals.hits, totals.lookups)} of ` +
      `${counted(totals.lookups, "lookup")}.`
    );
  }
}

class Latency extends Chart {
  constructor() {
    // The last path is drawn on top: the median, which varies least.
    super("chart-latency", ["line-third", "line-second", "line-first"]);
  }

  /** @param {History} history */
  paint(history) {
    const seconds = pointSeconds(this.range);
    write(this.unit, `of all requests, ${each(seconds)}, log scale`);
    const bins = history.bins(seconds, this.range);
    const known = bins.flatMap(latencies).filter((value) => value !== null);
    const scale = logarithmic(/** @type {number[]} */ (known), milliseconds);
    this.area.frame(history.from(this.range), history.to, scale.ticks);
    [2, 1, 0].forEach((column, number) => {
      const points = bins.map((bin) => {
        const value = latencies(bin)[column];
        return [bin.start + seconds / 2, value === null ? null : scale.share(value)];
      });
      set(this.paths[number], "d", line(this.area, /** @type {any} */ (points)));
    });
  }

  /** @param {Totals} totals */
  whole(totals) {
    return totals.latency.total.map(milliseconds);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(pointSeconds(this.range), this.range), time);
    return [clock(bin.start), latencies(bin).map(milliseconds)];
  }

  /** @param {History} _ @param {Totals} totals */
  summary(_, totals) {
    const [p50, p95, p99] = this.whole(totals);
    return totals.latency.total[0] === null
      ? `Latency over ${this.words}: no requests.`
      : `Latency over ${this.words}: p50 ${p50}, p95 ${p95}, p99 ${p99}.`;
  }
}

/** @returns {{show: (history: History, totals: Totals, range: number) => void}} */
export function charts() {
  const all = [new Requests(), new Ratio(), new Latency()];
  /** @type {(history: History, totals: Totals, range: number) => void} */
  const show = (history, totals, range) =>
    all.forEach((chart) => chart.show(history, totals, range));
  let last = /** @type {[History, Totals, number] | null} */ (null);
  // Redraw at a change of width, without waiting for the next event.
  new ResizeObserver(() => last && show(...last)).observe(byId("chart-requests"));
  return {
    show(history, totals, range) {
      last = [history, totals, range];
      show(history, totals, range);
    },
  };
}
