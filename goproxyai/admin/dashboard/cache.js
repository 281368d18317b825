/** What is in the cache, and the button that clears it, after a question. */

import { count, counted, percent, size } from "./format.js";
import { byId, put, set } from "./page.js";

export class Cache {
  #dialog = /** @type {HTMLDialogElement} */ (byId("sure"));
  #asking = false;
  #holds = "";

  /** @param {() => Record<string, string>} headers what a request has to send */
  constructor(headers) {
    this.headers = headers;
    byId("clear").addEventListener("click", () => this.#ask());
    byId("sure-no").addEventListener("click", () => this.#dialog.close());
    byId("sure-yes").addEventListener("click", () => {
      this.#dialog.close();
      this.#clear();
    });
  }

  /** @param {any} cache of the state */
  show(cache) {
    this.#holds = `${counted(cache.item_count, "stored answer")} (${size(cache.bytes)})`;
    put("cache-bytes", size(cache.bytes));
    put("cache-most", cache.max_bytes ? `of ${size(cache.max_bytes)}` : "the cache is off");
    const full = percent(cache.bytes, cache.max_bytes);
    set(byId("cache-gauge"), "aria-label", `Cache fill: ${full}`);
    const share = cache.max_bytes ? Math.min(1, cache.bytes / cache.max_bytes) : 0;
    const used = /** @type {Element} */ (document.querySelector("#cache-gauge .used"));
    set(used, "width", (100 * share).toFixed(2));
    put("cache-items", count(cache.item_count));
    put("cache-ttl", cache.ttl);
    put("cache-hits", count(cache.hits));
    put("cache-misses", count(cache.misses));
    put("cache-coalesced", count(cache.coalesced));
    put("cache-bypasses", count(cache.bypasses));
    put("cache-stale", count(cache.stale_if_error));
  }

  #ask() {
    if (this.#asking) return;
    put("cleared", "");
    put(
      "sure-text",
      `${this.#holds} will be forgotten. Requests go upstream until they are stored again.`,
    );
    this.#dialog.showModal();
  }

  async #clear() {
    this.#asking = true;
    put("cleared", "Clearing…");
    try {
      const response = await fetch("/cache", { method: "DELETE", headers: this.headers() });
      const answer = await response.json();
      const refusal = () => answer.error?.message ?? `the daemon answered ${response.status}`;
      put("cleared", response.ok ? "The cache was cleared." : `Not cleared: ${refusal()}`);
    } catch {
      put("cleared", "Not cleared: the daemon could not be reached.");
    } finally {
      this.#asking = false;
    }
  }
}
