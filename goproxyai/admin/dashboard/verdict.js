/** The verdict: one line on the traffic, and what to do. */

import { byId, put, set } from "./page.js";

export class Verdict {
  #announced = "";

  /** @param {any} verdict of the state */
  show({ level, text, advice, cause }) {
    set(byId("verdict"), "data-level", level);
    put("verdict-text", text);
    put("verdict-advice", advice);
    byId("verdict-advice").hidden = !advice;
    document.title = level === "bad" ? `▲ ${text} – goproxyai` : "goproxyai dashboard";
    // The share and the duration change all the time; only the level and the cause are announced.
    const announced = `${level} ${cause}`;
    if (this.#announced && announced !== this.#announced) put("verdict-news", text);
    this.#announced = announced;
  }
}
