/** The cache panel, with the button that clears the cache after a confirmation. */

import { count, counted, percent, size } from "./format.js";
import { byId, put, set } from "./page.js";

/**
 * Return the bypasses by reason, the most frequent first.
 * @param {Record<string, number>} reasons
 */
function byReason(reasons) {
  const sorted = Object.entries(reasons).sort((one, other) => other[1] - one[1]);
  return sorted.map(([reason, number]) => `${reason} ${count(number)}`).join(", ") || "–";
}

export class Cache {
  #dialog = /** @type {HTMLDialogElement} */ (byId("confirm"));
  #clearing = false;
  #contents = "";

  /** @param {() => Record<string, string>} headers returns the header fields for a request */
  constructor(headers) {
    this.headers = headers;
    byId("clear").addEventListener("click", () => this.#confirm());
    byId("confirm-cancel").addEventListener("click", () => this.#dialog.close());
    byId("confirm-clear").addEventListener("click", () => {
      this.#dialog.close();
      this.#clear();
    });
  }

  /** @param {any} cache the cache part of the state */
  show(cache) {
    this.#contents = `${counted(cache.item_count, "cached response")} (${size(cache.bytes)})`;
    put("cache-bytes", size(cache.bytes));
    put("cache-limit", cache.max_bytes ? `of ${size(cache.max_bytes)}` : "the cache is off");
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
    put("cache-bypass-reasons", byReason(cache.bypass_reasons));
    put("cache-stale", count(cache.stale_if_error));
  }

  #confirm() {
    if (this.#clearing) return;
    put("clear-result", "");
    put(
      "confirm-text",
      `${this.#contents} will be deleted. ` +
        "Requests go to the upstream until their responses are cached again.",
    );
    this.#dialog.showModal();
  }

  async #clear() {
    this.#clearing = true;
    put("clear-result", "Clearing…");
    try {
      const response = await fetch("/cache", { method: "DELETE", headers: this.headers() });
      const document = await response.json();
      const refusal = () => document.error?.message ?? `the daemon answered ${response.status}`;
      put("clear-result", response.ok ? "The cache was cleared." : `Not cleared: ${refusal()}`);
    } catch {
      put("clear-result", "Not cleared: the daemon could not be reached.");
    } finally {
      this.#clearing = false;
    }
  }
}
