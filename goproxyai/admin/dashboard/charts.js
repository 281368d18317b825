/**
 * SVG charts: a plot area that shows a time range from left to right, with scales, bars and lines.
 *
 * The elements are created once. Each update only sets their attributes.
 */

import { minute } from "./format.js";
import { set, write } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52; // pixels, for the value labels
const RIGHT = 6;
const TOP = 18;
const BOTTOM = 22; // for the time labels

/** @typedef {{text: string, share: number}} Tick */
/** @typedef {{share: (value: number) => number, ticks: Tick[]}} Scale share: 0 at the bottom, 1 at the top */

/**
 * @param {Element} parent
 * @param {string} name
 * @param {Record<string, string | number>} [attributes]
 * @returns {SVGElement}
 */
export function draw(parent, name, attributes = {}) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, String(value));
  parent.append(node);
  return node;
}

export class PlotArea {
  #grid;
  #cursor;
  #from = 0;
  #to = 1;

  /** @param {SVGSVGElement} svg */
  constructor(svg) {
    this.svg = svg;
    this.#grid = draw(svg, "g", { class: "grid" });
    this.marks = draw(svg, "g");
    this.#cursor = draw(svg, "path", { class: "cursor" });
    this.width = this.height = 0;
  }

  /**
   * Adopt the size that the page gives the element, and the time range.
   * @param {number} from
   * @param {number} to
   * @param {Tick[]} ticks
   */
  frame(from, to, ticks) {
    [this.#from, this.#to] = [from, to];
    this.width = Math.max(this.svg.clientWidth, 160);
    this.height = Math.max(this.svg.clientHeight, 80);
    set(this.svg, "viewBox", `0 0 ${this.width} ${this.height}`);
    const lines = ticks.map(({ share }) => `M${LEFT} ${this.y(share)}H${this.width - RIGHT}`);
    const labels = ticks.map(({ text, share }) => ({
      text, class: "value", x: LEFT - 8, y: this.y(share) + 4,
    }));
    const times = this.#times().map((at) => ({
      text: minute(at), class: "time", x: round(this.x(at)), y: this.height - 5,
    }));
    this.#label(lines.join(""), [...labels, ...times]);
  }

  /** @param {number} time */
  x(time) {
    return LEFT + ((time - this.#from) / (this.#to - this.#from)) * (this.width - LEFT - RIGHT);
  }

  /** @param {number} share */
  y(share) {
    return round(TOP + (1 - share) * (this.height - TOP - BOTTOM));
  }

  /**
   * @param {number} x pixels
   * @returns {number | null} the time at *x*; null outside of the plot area
   */
  time(x) {
    const share = (x - LEFT) / (this.width - LEFT - RIGHT);
    return share < 0 || share > 1 ? null : this.#from + share * (this.#to - this.#from);
  }

  /** @param {number | null} time to mark with a vertical line; null removes the line */
  point(time) {
    const at = time === null ? "" : `M${round(this.x(time))} ${TOP}V${this.height - BOTTOM}`;
    set(this.#cursor, "d", at);
  }

  /** @returns {number[]} a sixth of the range (a third on a narrow screen) where a label fits */
  #times() {
    const parts = this.width < 460 ? 3 : 6;
    const step = Math.max(60, 60 * Math.round((this.#to - this.#from) / parts / 60));
    const all = [];
    for (let at = Math.ceil(this.#from / step) * step; at < this.#to; at += step) {
      const x = this.x(at);
      if (x > LEFT + 16 && x < this.width - RIGHT - 16) all.push(at);
    }
    return all;
  }

  /**
   * @param {string} lines
   * @param {{text: string, class: string, x: number, y: number}[]} labels
   */
  #label(lines, labels) {
    const path = this.#grid.firstElementChild ?? draw(this.#grid, "path");
    set(path, "d", lines);
    while (this.#grid.childElementCount > labels.length + 1) this.#grid.lastElementChild?.remove();
    labels.forEach((label, number) => {
      const node = this.#grid.children[number + 1] ?? draw(this.#grid, "text");
      set(node, "class", label.class);
      set(node, "x", label.x);
      set(node, "y", label.y);
      write(node, label.text);
    });
  }
}

/**
 * A linear scale from 0 to a round number that is at least *max*.
 * @param {number} max
 * @param {(value: number) => string} text
 * @returns {Scale}
 */
export function linear(max, text) {
  const rough = Math.max(max, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, power * ([1, 2, 5].find((each) => each * power >= rough) ?? 10));
  const steps = Math.max(1, Math.ceil(max / step));
  const ticks = Array.from({ length: steps + 1 }, (_, number) => ({
    text: text(number * step), share: number / steps,
  }));
  return { share: (value) => value / (steps * step), ticks };
}

/**
 * A logarithmic scale between the powers of ten around *values*.
 * @param {number[]} values
 * @param {(value: number) => string} text
 * @returns {Scale}
 */
export function logarithmic(values, text) {
  const known = values.filter((value) => value > 0);
  const low = known.length ? Math.floor(Math.log10(Math.min(...known))) : 0;
  const high = known.length ? Math.max(Math.ceil(Math.log10(Math.max(...known))), low + 1) : 3;
  const ticks = Array.from({ length: high - low + 1 }, (_, number) => ({
    text: text(10 ** (low + number)), share: number / (high - low),
  }));
  const share = (/** @type {number} */ value) =>
    Math.max(0, (Math.log10(Math.max(value, 1e-9)) - low) / (high - low));
  return { share, ticks };
}

/** @type {Scale} */
export const RATIO = {
  share: (value) => value,
  ticks: [0, 0.25, 0.5, 0.75, 1].map((share) => ({ text: `${100 * share} %`, share })),
};

/**
 * @param {PlotArea} area
 * @param {number} seconds width of a bar
 * @param {[start: number, low: number, high: number][]} spans low and high as shares
 * @returns {string} a path with all bars
 */
export function bars(area, seconds, spans) {
  const step = area.x(seconds) - area.x(0);
  const wide = round(step - Math.min(1.5, step / 4));
  return spans
    .filter(([, low, high]) => high > low)
    .map(([start, low, high]) => {
      // The first bar may begin before the range, the last one may end after it: both are clipped.
      const left = Math.max(area.x(start), LEFT);
      const right = Math.min(area.x(start) + wide, area.width - RIGHT);
      const width = round(right - left);
      return width > 0 ? `M${round(left)} ${area.y(low)}V${area.y(high)}h${width}V${area.y(low)}z` : "";
    })
    .join("");
}

/**
 * @param {PlotArea} area
 * @param {[time: number, share: number | null][]} points
 * @returns {string} a path with gaps where the share is null, and a dot for a single point
 */
export function line(area, points) {
  let path = "";
  let drawing = false;
  for (const [time, share] of points) {
    if (share !== null) {
      // The first and the last bin lie partly outside of the range.
      const x = Math.min(Math.max(area.x(time), LEFT), area.width - RIGHT);
      const at = `${round(x)} ${area.y(share)}`;
      path += drawing ? `L${at}` : `M${at}h.1`;
    }
    drawing = share !== null;
  }
  return path;
}

/** @param {number} pixels */
function round(pixels) {
  return Math.round(pixels * 10) / 10;
}
