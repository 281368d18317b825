/** The time range that the page shows: a choice that is kept until the tab is closed. */

import { byId, write } from "./page.js";

const STORAGE_KEY = "goproxyai.range";
const SECONDS = /** @type {Record<string, number>} */ ({ "5 min": 300, "15 min": 900, "1 h": 3600 });

export class Range {
  #inputs = /** @type {HTMLInputElement[]} */ ([...byId("range").querySelectorAll("input")]);
  #name = "15 min";

  /** @param {() => void} onChange */
  constructor(onChange) {
    this.#choose(sessionStorage.getItem(STORAGE_KEY) ?? this.#name);
    byId("range").addEventListener("change", (event) => {
      this.#choose(/** @type {HTMLInputElement} */ (event.target).value);
      sessionStorage.setItem(STORAGE_KEY, this.#name);
      onChange();
    });
  }

  /** @param {string} name */
  #choose(name) {
    if (name in SECONDS) this.#name = name;
    for (const input of this.#inputs) input.checked = input.value === this.#name;
    for (const node of document.querySelectorAll(".range-name")) write(node, `last ${this.#name}`);
  }

  get seconds() {
    return SECONDS[this.#name];
  }

  /** @param {any} now the state; returns its part about the range */
  of(now) {
    return now.ranges[this.#name];
  }
}
