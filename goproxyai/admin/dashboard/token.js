/**
 * The admin token: asked for in a form, kept in sessionStorage (this tab, until it is closed), sent
 * as a bearer and in no other way.
 */

import { byId, put } from "./page.js";

const KEPT = "goproxyai.token";

export class Token {
  #form = byId("door-form");
  #input = /** @type {HTMLInputElement} */ (byId("door-token"));
  #forget = byId("forget");

  /** @param {() => void} onChange called when another token, or none, is to be tried */
  constructor(onChange) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#take(this.#input.value.trim())) onChange();
    });
    this.#forget.addEventListener("click", () => {
      sessionStorage.removeItem(KEPT);
      onChange();
    });
  }

  /** What a request has to send. @returns {Record<string, string>} */
  headers() {
    const token = sessionStorage.getItem(KEPT);
    return token === null ? {} : { Authorization: `Bearer ${token}` };
  }

  /** The daemon let us in. */
  accepted() {
    this.#input.value = "";
    this.#complain("");
    this.#forget.hidden = sessionStorage.getItem(KEPT) === null;
  }

  /** The daemon did not: what is kept, if anything, is wrong. */
  refused() {
    const sent = sessionStorage.getItem(KEPT) !== null;
    sessionStorage.removeItem(KEPT);
    this.#forget.hidden = true;
    this.#complain(sent ? "That token is wrong." : "");
    this.#input.focus();
    this.#input.select();
  }

  /**
   * @param {string} given
   * @returns {boolean} whether it can be a token at all; fetch throws at other characters
   */
  #take(given) {
    if (!/^[\x21-\x7e]+$/.test(given)) {
      this.#complain(given ? "That token is wrong: it has visible ASCII only." : "Enter a token.");
      this.#input.focus();
      return false;
    }
    sessionStorage.setItem(KEPT, given);
    return true;
  }

  /** @param {string} text */
  #complain(text) {
    put("door-wrong", text);
    this.#input.setAttribute("aria-invalid", String(text !== ""));
  }
}
