/**
 * The admin token: entered in a form, kept in sessionStorage (until this tab is closed), sent only
 * as a bearer token.
 */

import { byId, put } from "./page.js";

const STORAGE_KEY = "goproxyai.token";

export class Token {
  #form = byId("sign-in-form");
  #input = /** @type {HTMLInputElement} */ (byId("sign-in-token"));
  #forget = byId("forget");

  /** @param {() => void} onChange called after the token was entered or forgotten */
  constructor(onChange) {
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#store(this.#input.value.trim())) onChange();
    });
    this.#forget.addEventListener("click", () => {
      sessionStorage.removeItem(STORAGE_KEY);
      onChange();
    });
  }

  /** Header fields for a request. @returns {Record<string, string>} */
  headers() {
    const token = sessionStorage.getItem(STORAGE_KEY);
    return token === null ? {} : { Authorization: `Bearer ${token}` };
  }

  /** The daemon accepted the request. */
  accepted() {
    this.#input.value = "";
    this.#showError("");
    this.#forget.hidden = sessionStorage.getItem(STORAGE_KEY) === null;
  }

  /** The daemon refused the request: a stored token is wrong. */
  refused() {
    const sent = sessionStorage.getItem(STORAGE_KEY) !== null;
    sessionStorage.removeItem(STORAGE_KEY);
    this.#forget.hidden = true;
    this.#showError(sent ? "The token is wrong." : "");
    this.#input.focus();
    this.#input.select();
  }

  /**
   * @param {string} token
   * @returns {boolean} whether the token is valid in a header; fetch throws on other characters
   */
  #store(token) {
    if (!/^[\x21-\x7e]+$/.test(token)) {
      this.#showError(token ? "The token must consist of visible ASCII characters." : "Enter a token.");
      this.#input.focus();
      return false;
    }
    sessionStorage.setItem(STORAGE_KEY, token);
    return true;
  }

  /** @param {string} text */
  #showError(text) {
    put("sign-in-error", text);
    this.#input.setAttribute("aria-invalid", String(text !== ""));
  }
}
