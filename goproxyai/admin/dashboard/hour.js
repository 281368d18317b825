/** The three charts of the last hour. */

import { bars, draw, flags, line, linear, logarithmic, PlotArea, RATIO } from "./charts.js";
import { clock, count, counted, milliseconds, minute, percent } from "./format.js";
import { latencies } from "./history.js";
import { byId, set, write } from "./page.js";

/** @import { Bin, History } from "./history.js" */
/** @typedef {{requests: number, hits: number, lookups: number, errors: number,
 *             p50_ms: number | null, p95_ms: number | null, p99_ms: number | null}} Hour */

const BAR_SECONDS = 30; // 120 bars are distinguishable on a phone
const POINT_SECONDS = 60; // with shorter bins, the line jumps at low request rates
const SUMMARY_MS = 10_000; // interval of the text alternatives for screen readers

/** A figure: plot area, legend with the values at the pointer, and text alternative. */
class Chart {
  #pointer = /** @type {number | null} */ (null);
  #summarizedAt = -Infinity;

  /**
   * @param {string} id
   * @param {string[]} series classes of the paths, in drawing order
   */
  constructor(id, series) {
    const figure = byId(id);
    this.svg = /** @type {SVGSVGElement} */ (figure.querySelector("svg.plot"));
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
   * @param {Hour} hour
   */
  show(history, hour) {
    this.history = history;
    this.hour = hour;
    this.paint(history);
    this.legend();
    if (performance.now() - this.#summarizedAt >= SUMMARY_MS) {
      this.#summarizedAt = performance.now();
      set(this.svg, "aria-label", this.summary(history, hour));
    }
  }

  /** Show the values at the pointer, or those of the whole hour. */
  legend() {
    if (!this.history || !this.hour) return;
    const time = this.#pointer === null ? null : this.area.time(this.#pointer);
    this.area.point(time);
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
   * @returns {string[]} one value per series
   */
  whole(history, hour) {
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
    const bins = history.bins(BAR_SECONDS);
    const scale = linear(Math.max(...bins.map((bin) => bin.requests)), count);
    this.area.frame(history.from, history.to, scale.ticks);
    const share = scale.share;
    const paths = [
      bars(this.area, BAR_SECONDS, bins.map((bin) => [bin.start, 0, share(bin.hits)])),
      bars(this.area, BAR_SECONDS, bins.map((bin) => [bin.start, share(bin.hits), share(bin.requests)])),
      flags(this.area, bins.filter((bin) => bin.errors).map((bin) => bin.start + BAR_SECONDS / 2)),
    ];
    this.paths.forEach((path, number) => set(path, "d", paths[number]));
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [hour.hits, Math.max(0, hour.requests - hour.hits), hour.errors].map(count);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(BAR_SECONDS), time);
    const values = [bin.hits, Math.max(0, bin.requests - bin.hits), bin.errors];
    return [clock(bin.start), values.map(count)];
  }

  /** @param {History} history @param {Hour} hour */
  summary(history, hour) {
    const bins = history.bins(BAR_SECONDS);
    const peakBin = bins.reduce((one, other) => (other.requests > one.requests ? other : one));
    const peak = peakBin.requests
      ? ` Peak: ${count(peakBin.requests)} in 30 seconds, at ${minute(peakBin.start)}.`
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
    this.area.frame(history.from, history.to, RATIO.ticks);
    const points = history.bins(POINT_SECONDS).map((bin) => [
      bin.start + POINT_SECONDS / 2, bin.lookups ? bin.hits / bin.lookups : null,
    ]);
    set(this.paths[0], "d", line(this.area, /** @type {any} */ (points)));
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [percent(hour.hits, hour.lookups)];
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(POINT_SECONDS), time);
    return [clock(bin.start), [percent(bin.hits, bin.lookups)]];
  }

  /** @param {History} history @param {Hour} hour */
  summary(history, hour) {
    const recent = history.bins(POINT_SECONDS).slice(-5);
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
    // The last path is drawn on top: the median, which varies least.
    super("chart-latency", ["line-third", "line-second", "line-first"]);
  }

  /** @param {History} history */
  paint(history) {
    const bins = history.bins(POINT_SECONDS);
    const known = bins.flatMap(latencies).filter((value) => value !== null);
    const scale = logarithmic(/** @type {number[]} */ (known), milliseconds);
    this.area.frame(history.from, history.to, scale.ticks);
    [2, 1, 0].forEach((column, number) => {
      const points = bins.map((bin) => {
        const value = latencies(bin)[column];
        return [bin.start + POINT_SECONDS / 2, value === null ? null : scale.share(value)];
      });
      set(this.paths[number], "d", line(this.area, /** @type {any} */ (points)));
    });
  }

  /** @param {History} _ @param {Hour} hour */
  whole(_, hour) {
    return [hour.p50_ms, hour.p95_ms, hour.p99_ms].map(milliseconds);
  }

  /** @param {History} history @param {number} time @returns {[string, string[]]} */
  at(history, time) {
    const bin = binAt(history.bins(POINT_SECONDS), time);
    return [clock(bin.start), latencies(bin).map(milliseconds)];
  }

  /** @param {History} _ @param {Hour} hour */
  summary(_, hour) {
    const [p50, p95, p99] = this.whole(_, hour);
    return hour.p50_ms === null
      ? "Latency over the last hour: no requests."
      : `Latency over the last hour: p50 ${p50}, p95 ${p95}, p99 ${p99}.`;
  }
}

/** @returns {{show: (history: History, hour: Hour) => void}} shows all three charts */
export function charts() {
  const all = [new Requests(), new Ratio(), new Latency()];
  const show = (/** @type {History} */ history, /** @type {Hour} */ hour) =>
    all.forEach((chart) => chart.show(history, hour));
  let last = /** @type {[History, Hour] | null} */ (null);
  // Redraw at a change of width, without waiting for the next event.
  new ResizeObserver(() => last && show(...last)).observe(byId("chart-requests"));
  return {
    show(history, hour) {
      last = [history, hour];
      show(history, hour);
    },
  };
}
