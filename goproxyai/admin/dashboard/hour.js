/** The three charts of the last hour. */

import { bars, draw, flags, line, linear, logarithmic, Plane, RATIO } from "./charts.js";
import { clock, count, counted, milliseconds, minute, percent } from "./format.js";
import { latencies } from "./history.js";
import { byId, set, write } from "./page.js";

/** @import { Bin, History } from "./history.js" */
/** @typedef {{requests: number, hits: number, lookups: number, errors: number,
 *             p50_ms: number | null, p95_ms: number | null, p99_ms: number | null}} Hour */

const BAR = 30; // seconds; 120 bars can still be told apart on a phone
const POINT = 60; // seconds; of fewer, a line jumps where there is little to do
const SUMMARY = 10_000; // milliseconds between two texts for who does not see the chart

/** A figure: its plane, its legend, which also tells the values at the pointer, and its summary. */
class Chart {
  #pointer = /** @type {number | null} */ (null);
  #summarised = -Infinity;

  /**
   * @param {string} id
   * @param {string[]} series the classes of its paths, what is drawn first at first
   */
  constructor(id, series) {
    const figure = byId(id);
    this.svg = /** @type {SVGSVGElement} */ (figure.querySelector("svg.plot"));
    this.plane = new Plane(this.svg);
    this.paths = series.map((name) => draw(this.plane.marks, "path", { class: name }));
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
   * @param {Hour} hour
   */
  show(history, hour) {
    this.history = history;
    this.hour = hour;
    this.paint(history);
    this.legend();
    if (performance.now() - this.#summarised >= SUMMARY) {
      this.#summarised = performance.now();
      set(this.svg, "aria-label", this.summary(history, hour));
    }
  }

  /** The values of the hour, or of the time at the pointer. */
  legend() {
    if (!this.history || !this.hour) return;
    const time = this.#pointer === null ? null : this.plane.time(this.#pointer);
    this.plane.point(time);
    const [when, values] = time === null
      ? ["last hour", this.whole(this.history, this.hour)]
      : this.at(this.history, time);
    write(this.when, when);
    this.values.forEach((node, number) => write(node, values[number]));
  }

  /** @param {History} history */
  paint(history) {}

  /**
   * @param {History} history
   * @param {Hour} hour
   * @returns {string[]} a value for each series
   */
  whole(history, hour) {
    return [];
  }

  /**
   * @param {History} history
   * @param {number} time
   * @returns {[string, string[]]} what time that is, and the values
   */
  at(history, time) {
    return ["", []];
  }

  /**
   * @param {History} history
   * @param {Hour} hour
   */
  summary(history, hour) {
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

class Requests extends Chart {
  constructor() {
    super("chart-requests", ["fill-hits", "fill-others", "fill-errors"]);
  }

  /** @param {History} history */
  paint(history) {
    const bins = history.bins(BAR);
    const scale = linear(Math.max(...bins.map((bin) => bin.requests)), count);
    this.plane.frame(history.from, history.to, scale.ticks);
    const share = scale.share;
    const paths = [
      bars(this.plane, BAR, bins.map((bin) => [bin.start, 0, share(bin.hits)])),
      bars(this.plane, BAR, bins.map((bin) => [bin.start, share(bin.hits), share(bin.requests)])),
      flags(this.plane, bins.filter((bin) => bin.errors).map((bin) => bin.start + BAR / 2)),
    ];
    this.paths.forEach((path, number) => set(path, "d", paths[number]));
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [hour.hits, Math.max(0, hour.requests - hour.hits), hour.errors].map(count);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(BAR), time);
    const values = [bin.hits, Math.max(0, bin.requests - bin.hits), bin.errors];
    return [clock(bin.start), values.map(count)];
  }

  /** @param {History} history @param {Hour} hour */
  summary(history, hour) {
    const bins = history.bins(BAR);
    const most = bins.reduce((one, other) => (other.requests > one.requests ? other : one));
    const peak = most.requests
      ? ` The most were ${count(most.requests)} in 30 seconds, at ${minute(most.start)}.`
      : "";
    return (
      `Requests over the last hour: ${count(hour.requests)}, of them ${count(hour.hits)} ` +
      `answered from the cache; ${counted(hour.errors, "error")}.${peak}`
    );
  }
}

class Ratio extends Chart {
  constructor() {
    super("chart-ratio", ["line-first"]);
  }

  /** @param {History} history */
  paint(history) {
    this.plane.frame(history.from, history.to, RATIO.ticks);
    const points = history.bins(POINT).map((bin) => [
      bin.start + POINT / 2, bin.lookups ? bin.hits / bin.lookups : null,
    ]);
    set(this.paths[0], "d", line(this.plane, /** @type {any} */ (points)));
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [percent(hour.hits, hour.lookups)];
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(POINT), time);
    return [clock(bin.start), [percent(bin.hits, bin.lookups)]];
  }

  /** @param {History} history @param {Hour} hour */
  summary(history, hour) {
    const recent = history.bins(POINT).slice(-5);
    const sum = (/** @type {"hits" | "lookups"} */ name) =>
      recent.reduce((total, bin) => total + bin[name], 0);
    return (
      `Hit ratio over the last hour: ${percent(hour.hits, hour.lookups)} of ` +
      `${counted(hour.lookups, "lookup")}; in the last five minutes ` +
      `${percent(sum("hits"), sum("lookups"))}.`
    );
  }
}

class Latency extends Chart {
  constructor() {
    // What is drawn last lies on top: the median, which has the fewest jumps.
    super("chart-latency", ["line-third", "line-second", "line-first"]);
  }

  /** @param {History} history */
  paint(history) {
    const bins = history.bins(POINT);
    const known = bins.flatMap(latencies).filter((value) => value !== null);
    const scale = logarithmic(/** @type {number[]} */ (known), milliseconds);
    this.plane.frame(history.from, history.to, scale.ticks);
    [2, 1, 0].forEach((column, number) => {
      const points = bins.map((bin) => {
        const value = latencies(bin)[column];
        return [bin.start + POINT / 2, value === null ? null : scale.share(value)];
      });
      set(this.paths[number], "d", line(this.plane, /** @type {any} */ (points)));
    });
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [hour.p50_ms, hour.p95_ms, hour.p99_ms].map(milliseconds);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(POINT), time);
    return [clock(bin.start), latencies(bin).map(milliseconds)];
  }

  /** @param {History} _ @param {Hour} hour */
  summary(_, hour) {
    const [half, most, nearly] = this.whole(_, hour);
    return hour.p50_ms === null
      ? "Latency over the last hour: no requests."
      : `Latency over the last hour: half of the requests within ${half}, 95 % within ${most}, 99 % within ${nearly}.`;
  }
}

/** @returns {{show: (history: History, hour: Hour) => void}} all three */
export function charts() {
  const all = [new Requests(), new Ratio(), new Latency()];
  const show = (/** @type {History} */ history, /** @type {Hour} */ hour) =>
    all.forEach((chart) => chart.show(history, hour));
  let last = /** @type {[History, Hour] | null} */ (null);
  // Of a change of width nothing is heard in the events: it is drawn anew at once.
  new ResizeObserver(() => last && show(...last)).observe(byId("chart-requests"));
  return {
    show(history, hour) {
      last = [history, hour];
      show(history, hour);
    },
  };
}
