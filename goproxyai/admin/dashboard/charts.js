/**
 * Plain SVG: a plane in pixels with an hour from left to right, scales, bars and lines.
 *
 * The elements are made once; drawing again only sets what they are to show.
 */

import { minute } from "./format.js";
import { set, write } from "./page.js";

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52; // pixels, for the labels of the values
const RIGHT = 6;
const TOP = 18;
const BOTTOM = 22; // for the times

/** @typedef {{text: string, share: number}} Tick */
/** @typedef {{share: (value: number) => number, ticks: Tick[]}} Scale from 0, at the bottom, to 1 */

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

export class Plane {
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
   * Take the size that the page gives it, and the time from *from* to *to*.
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
   * @returns {number | null} the time there, if it is in the plane
   */
  time(x) {
    const share = (x - LEFT) / (this.width - LEFT - RIGHT);
    return share < 0 || share > 1 ? null : this.#from + share * (this.#to - this.#from);
  }

  /** @param {number | null} time that a line marks */
  point(time) {
    const at = time === null ? "" : `M${round(this.x(time))} ${TOP}V${this.height - BOTTOM}`;
    set(this.#cursor, "d", at);
  }

  /** @returns {number[]} the full ten, or on a phone twenty, minutes that have room for a label */
  #times() {
    const step = this.width < 460 ? 1200 : 600;
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
 * From 0 to a round number that is not below *most*.
 * @param {number} most
 * @param {(value: number) => string} text
 * @returns {Scale}
 */
export function linear(most, text) {
  const rough = Math.max(most, 1) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max(1, power * ([1, 2, 5].find((each) => each * power >= rough) ?? 10));
  const steps = Math.max(1, Math.ceil(most / step));
  const ticks = Array.from({ length: steps + 1 }, (_, number) => ({
    text: text(number * step), share: number / steps,
  }));
  return { share: (value) => value / (steps * step), ticks };
}

/**
 * Whole powers of ten around *values*.
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
 * @param {Plane} plane
 * @param {number} seconds that a bar is wide
 * @param {[start: number, low: number, high: number][]} spans in shares
 * @returns {string} the path of all bars
 */
export function bars(plane, seconds, spans) {
  const step = plane.x(seconds) - plane.x(0);
  const wide = round(step - Math.min(1.5, step / 4));
  return spans
    .filter(([, low, high]) => high > low)
    .map(([start, low, high]) => {
      // The oldest bar may begin before the hour does, the newest end after it: both are cut.
      const left = Math.max(plane.x(start), LEFT);
      const right = Math.min(plane.x(start) + wide, plane.width - RIGHT);
      const width = round(right - left);
      return width > 0 ? `M${round(left)} ${plane.y(low)}V${plane.y(high)}h${width}V${plane.y(low)}z` : "";
    })
    .join("");
}

/**
 * @param {Plane} plane
 * @param {[time: number, share: number | null][]} points
 * @returns {string} a path that has gaps where nothing was, and a dot for what stands alone
 */
export function line(plane, points) {
  let path = "";
  let drawing = false;
  for (const [time, share] of points) {
    if (share !== null) {
      // The first and the last bin are not all within the hour.
      const x = Math.min(Math.max(plane.x(time), LEFT), plane.width - RIGHT);
      const at = `${round(x)} ${plane.y(share)}`;
      path += drawing ? `L${at}` : `M${at}h.1`;
    }
    drawing = share !== null;
  }
  return path;
}

/**
 * Small triangles that hang from the top.
 * @param {Plane} plane
 * @param {number[]} times
 */
export function flags(plane, times) {
  const [least, most] = [LEFT + 4, plane.width - RIGHT - 4];
  const at = (/** @type {number} */ time) => round(Math.min(Math.max(plane.x(time), least), most));
  return times.map((time) => `M${at(time) - 4} 3h8l-4 8z`).join("");
}

/** @param {number} pixels */
function round(pixels) {
  return Math.round(pixels * 10) / 10;
}
