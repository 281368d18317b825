/** The daemon itself: its resources, and its configuration. */

import { count, moment, percent, size } from "./format.js";
import { byId, put, set, Table } from "./page.js";

/** @param {any} now the state */
export function showDaemon({ resources, requests, reload, now }) {
  const of = (/** @type {string} */ used, /** @type {string} */ limit) => `${used} of ${limit}`;
  put("connections", of(count(resources.connections), count(resources.max_connections)));
  put("upstream-connections", count(resources.upstream_connections));
  put("descriptors", resources.max_descriptors
    ? of(count(resources.descriptors), count(resources.max_descriptors))
    : count(resources.descriptors));
  put("cpu", cpu(resources));
  put("resident", resources.resident_bytes ? size(resources.resident_bytes) : "–");
  put("request-bytes", of(size(resources.request_bytes), size(resources.max_request_bytes)));
  put("own-pages", count(requests.own_pages));
  put("reload", lastReload(reload, now));
  for (const [name, level] of Object.entries(resources.levels)) {
    set(byId(`detail-${name.replace("_", "-")}`), "data-level", level);
  }
}

/** @param {any} resources */
function cpu({ cpu_share: share, processes }) {
  if (share === null) return "–";
  return processes > 1 ? `${percent(share, 1)} in ${processes} processes` : percent(share, 1);
}

/**
 * @param {{succeeded_at: number | null, failed_at: number | null}} reload
 * @param {number} now
 */
function lastReload({ succeeded_at: succeeded, failed_at: failed }, now) {
  if (failed !== null && failed > (succeeded ?? 0)) return `failed at ${moment(failed, now)}`;
  return succeeded === null ? "none" : moment(succeeded, now);
}

/** The settings in effect, read when the panel is opened and after a reload. */
export class Configuration {
  #panel = /** @type {HTMLDetailsElement} */ (byId("configuration"));
  #table = new Table("settings");
  #shown = ""; // the reload that the table is of

  /** @param {() => Record<string, string>} headers returns the header fields for a request */
  constructor(headers) {
    this.headers = headers;
    this.#panel.addEventListener("toggle", () => {
      this.#shown = "";
      if (this.#panel.open) this.#read();
    });
  }

  /** @param {any} reload of the state */
  show(reload) {
    const current = JSON.stringify(reload);
    if (this.#panel.open && this.#shown && current !== this.#shown) this.#read();
    this.#shown = current;
  }

  async #read() {
    try {
      const response = await fetch("/stats", { headers: this.headers(), cache: "no-store" });
      if (!response.ok) throw new Error(`the daemon answered ${response.status}`);
      const { config } = await response.json();
      put("configuration-error", "");
      this.#table.show(rows(config));
    } catch (error) {
      put("configuration-error", `Not read: ${/** @type {Error} */ (error).message}`);
    }
  }
}

/** @param {Record<string, {value: string, source: string}>} config */
function rows(config) {
  const isDefault = (/** @type {string} */ name) => Number(config[name].source === "default");
  return Object.keys(config)
    .sort((one, other) => isDefault(one) - isDefault(other) || one.localeCompare(other))
    .map((name) => ({
      key: name,
      cells: [
        { text: name, class: "code" },
        { text: config[name].value || "–", class: "code value" },
        { text: config[name].source, class: isDefault(name) ? "note" : "" },
      ],
    }));
}
