/** The cache panels. Buttons clear the cache, or delete a path, after a confirmation. */

import { count, counted, percent, size } from "./format.js";
import { byId, put, set, Table } from "./page.js";

export class Cache {
  #dialog = /** @type {HTMLDialogElement} */ (byId("confirm"));
  #paths = new Table("paths");
  #bypasses = new Table("bypasses");
  #clearing = false;
  #contents = "";
  #path = /** @type {string | null} */ (null); // to delete; null is the whole cache

  /** @param {() => Record<string, string>} headers returns the header fields for a request */
  constructor(headers) {
    this.headers = headers;
    byId("clear").addEventListener("click", () => this.#confirm(null));
    byId("confirm-cancel").addEventListener("click", () => this.#dialog.close());
    byId("confirm-clear").addEventListener("click", () => {
      this.#dialog.close();
      this.#clear();
    });
  }

  /**
   * @param {any} cache the cache part of the state
   * @param {[string, number][]} bypasses by reason, in the time range
   */
  show(cache, bypasses) {
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
    put("cache-stale", count(cache.stale_if_error));
    this.#bypasses.show(bypasses.map(([reason, number]) => ({
      key: reason,
      cells: [{ text: reason, class: "code" }, { text: count(number), class: "number" }],
    })));
    this.#paths.show(cache.paths.map((/** @type {[string, number]} */ row) => this.#pathRow(row)));
  }

  /** @param {[string, number]} row @returns {import("./page.js").Row} */
  #pathRow([path, hits]) {
    const button = { label: `Delete the entries of ${path}`, press: () => this.#confirm(path) };
    const cells = [
      { text: path, class: "code" },
      { text: count(hits), class: "number" },
      // A path with a masked credential is not the path of the entries.
      path.includes("*") ? { text: "" } : { text: "Delete…", class: "number", button },
    ];
    return { key: path, cells };
  }

  /** @param {string | null} path */
  #confirm(path) {
    if (this.#clearing) return;
    this.#path = path;
    put("clear-result", "");
    put("confirm-title", path === null ? "Clear the cache?" : "Delete the entries of this path?");
    put("confirm-clear", path === null ? "Clear cache" : "Delete entries");
    const what = path === null ? this.#contents : `All cached responses of ${path}`;
    put(
      "confirm-text",
      `${what} will be deleted. ` +
        "Requests go to the upstream until their responses are cached again.",
    );
    this.#dialog.showModal();
  }

  async #clear() {
    this.#clearing = true;
    put("clear-result", "Clearing…");
    const path = this.#path;
    const url = path === null ? "/cache" : `/cache?path=${encodeURIComponent(path)}`;
    const done = path === null ? "The cache was cleared." : `The entries of ${path} were deleted.`;
    try {
      const response = await fetch(url, { method: "DELETE", headers: this.headers() });
      const document = await response.json();
      const refusal = () => document.error?.message ?? `the daemon answered ${response.status}`;
      put("clear-result", response.ok ? done : `Not cleared: ${refusal()}`);
    } catch {
      put("clear-result", "Not cleared: the daemon could not be reached.");
    } finally {
      this.#clearing = false;
    }
  }
}
