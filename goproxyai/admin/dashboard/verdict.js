/** The verdict: one line on the traffic, and what to do. */

import { byId, put, set } from "./page.js";

export class Verdict {
  #announced = "";

  /** @param {any} verdict of the state */
  show({ level, text, advice, cause }) {
    this.#put(level, text, advice);
    document.title = level === "bad" ? `▲ ${text} – goproxyai` : "goproxyai dashboard";
    // The share and the duration change all the time; only the level and the cause are announced.
    const announced = `${level} ${cause}`;
    if (this.#announced && announced !== this.#announced) put("verdict-news", text);
    this.#announced = announced;
  }

  /** @param {string} why the daemon cannot be reached, which is announced elsewhere */
  showDisconnected(why) {
    const advice = `Connection lost: ${why}. The numbers below are out of date.`;
    this.#put("idle", "The daemon does not answer", advice);
  }

  /**
   * @param {string} level
   * @param {string} text
   * @param {string} advice
   */
  #put(level, text, advice) {
    set(byId("verdict"), "data-level", level);
    put("verdict-text", text);
    put("verdict-advice", advice);
    byId("verdict-advice").hidden = !advice;
  }
}
