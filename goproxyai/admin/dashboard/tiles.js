/** The tiles: figures of the time range, coloured by the levels that the daemon has found. */

import { count, counted, milliseconds, percent } from "./format.js";
import { byId, put, set } from "./page.js";

/**
 * @param {any} now the state
 * @param {any} range its part about the time range
 */
export function showTiles({ requests }, range) {
  put("requests", count(range.requests));
  put("requests-total", `${count(requests.total)} in total`);
  put("error-rate", percent(range.errors, range.requests - range.limited));
  put("error-count", errorCount(range));
  put("limited", count(range.limited));
  put("limited-total", `${count(requests.limited)} in total`);
  put("hit-ratio", percent(range.hits, range.lookups));
  put("hits", `${count(range.hits)} of ${count(range.lookups)}`);
  for (const name of ["upstream", "overhead", "hits"]) {
    const [p50, p95, p99] = range.latency[name].map(milliseconds);
    put(`${name}-p95`, p95);
    put(`${name}-others`, `p50 ${p50}\np99 ${p99}`);
  }
  put("in-flight", count(requests.in_flight));
  put("open-streams", `${counted(requests.open_streams + requests.open_tunnels, "stream")}`);
  for (const [name, level] of Object.entries(range.levels)) {
    set(byId(`tile-${name}`), "data-level", level);
  }
}

/** Requests that the rate limit refuses have a tile of their own. @param {any} range */
function errorCount({ errors, incidents }) {
  const others = errors - incidents;
  if (!incidents && !others) return "none";
  return others ? `${count(incidents)} + ${count(others)} by clients` : count(incidents);
}
