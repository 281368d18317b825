/** The rows of the tables. */

import { count, counted, duration, milliseconds, moment, money, percent } from "./format.js";
import { byId, put, Table } from "./page.js";

const MAX_CELL_CHARACTERS = 120; // of texts from requests and responses

/** @param {string} text @param {string} [more] further classes */
const number = (text, more = "") => ({ text, class: `number ${more}`.trim() });

/**
 * A cell with a shortened text; its tooltip has the full text.
 * @param {string} text
 * @param {string} name class of the cell
 */
function short(text, name) {
  return text.length > MAX_CELL_CHARACTERS
    ? { text: `${text.slice(0, MAX_CELL_CHARACTERS)}…`, title: text, class: name }
    : { text, title: "", class: name };
}

/** @param {number} errors */
const errorCell = (errors) => number(count(errors), errors ? "error" : "");

/** @param {number} limited */
const limitedCell = (limited) => number(count(limited), limited ? "warned" : "");

/** @param {any} route */
function routeRow({ route, requests, hits, limited, errors }) {
  const cells = [
    short(route, "code"), number(count(requests)), number(count(hits)), limitedCell(limited),
    errorCell(errors),
  ];
  return { key: route, cells };
}

/** @param {any} row */
function clientRow({ client, requests, limited, errors }) {
  const cells = [
    short(client, "code"), number(count(requests)), limitedCell(limited), errorCell(errors),
  ];
  return { key: client, cells };
}

/** @param {any} model */
function modelRow({ model, upstream, cache, spent, saved, priced }) {
  const cost = (/** @type {number} */ amount) =>
    priced ? number(money(amount), "money") : { text: "no price", class: "number money unpriced" };
  const cells = [
    short(model, "code"), number(count(upstream)),
    number(`${count(cache)} (${percent(cache, upstream + cache)})`), cost(spent), cost(saved),
  ];
  return { key: model, cells };
}

const CIRCUITS = /** @type {Record<string, string>} */ ({
  closed: "good", "half-open": "busy", open: "bad",
});

/** @param {any} upstream */
function upstreamRow({ url, circuit, opened }) {
  const cells = [
    { text: url, class: "code" },
    { text: circuit, class: "status", kind: CIRCUITS[circuit] ?? "idle" },
    number(count(opened)),
  ];
  return { key: url, cells };
}

const PHASES = /** @type {Record<string, [string, string]>} */ ({
  receiving: ["idle", "receiving the request"], waiting: ["busy", "waiting"],
  responding: ["good", "responding"], streaming: ["good", "streaming"],
  tunnel: ["good", "WebSocket"],
});

/**
 * @param {any} request
 * @param {number} index requests have no identity: rows are reused from the top
 */
function liveRow({ age, method, path, client, model, phase, first_byte: firstByte }, index) {
  const [kind, text] = PHASES[phase] ?? ["idle", phase];
  const cells = [
    short(`${method} ${path}`, "code request"), short(model || "–", "code model"),
    { text, class: "status", kind }, number(duration(age)),
    number(firstByte < 0 ? "–" : milliseconds(1000 * firstByte)), short(client, "code client"),
  ];
  return { key: String(index), cells };
}

/** @param {any} cause @param {number} now */
function causeRow(cause, now) {
  const cells = [
    { text: cause.text, class: "status cause", kind: cause.incident ? "bad" : "busy" },
    number(count(cause.count)),
    { text: moment(cause.first_seen, now), class: "time" },
    { text: moment(cause.last_seen, now), class: "time" },
    short(`${cause.status} ${cause.method} ${cause.path}`, "code request"),
    short(cause.upstream_request_id || "–", "code id"),
  ];
  return { key: cause.cause, cells };
}

/** @param {any} now the state; its errors are sorted, newest first */
function errorRows({ recent_errors: errors, now }) {
  const seen = new Map();
  return errors.toSorted((/** @type {any} */ one, /** @type {any} */ other) => other.time - one.time)
    .map((/** @type {any} */ error) => {
      const key = `${error.time} ${error.request_id}`;
      const times = seen.get(key) ?? 0; // errors with equal keys are separate rows
      seen.set(key, times + 1);
      const cells = [
        { text: moment(error.time, now), class: "time" },
        number(String(error.status)),
        { text: error.code || error.cause, class: "code word" },
        short(`${error.method} ${error.path}`, "code request"),
        short(error.client ?? "", "code client"),
        short(error.detail ?? "", "prose"),
        short(error.upstream_request_id || error.request_id || "", "code id"),
      ];
      return { key: `${key} ${times}`, cells };
    });
}

export class Tables {
  #causes = new Table("causes");
  #live = new Table("live");
  #routes = new Table("routes");
  #clients = new Table("clients");
  #models = new Table("models");
  #upstreams = new Table("upstreams");
  #errors = new Table("errors");

  /**
   * @param {any} now the state
   * @param {any} range its part about the time range
   */
  show(now, range) {
    byId("causes-card").hidden = range.causes.length === 0;
    this.#causes.show(range.causes.map((/** @type {any} */ cause) => causeRow(cause, now.now)));
    this.#live.show(now.live.map(liveRow));
    const more = now.requests.in_flight - now.live.length;
    put("live-more", more > 0 && now.live.length ? `and ${count(more)} more` : "");
    this.#routes.show(range.routes.map(routeRow));
    this.#clients.show(now.clients.map(clientRow));
    this.#upstreams.show(now.upstreams.map(upstreamRow));
    this.#errors.show(errorRows(now));
    this.#showTokens(now.tokens);
  }

  /** @param {any} tokens */
  #showTokens({ upstream, cache, unknown, models, money: amounts }) {
    put("tokens-spent", count(upstream.prompt + upstream.completion));
    put("tokens-saved", count(cache.prompt + cache.completion));
    put("tokens-unknown", unknown ? `${counted(unknown, "response")} without known usage.` : "");
    byId("content").classList.toggle("without-prices", amounts === null);
    put("money-spent", amounts === null ? "–" : money(amounts.spent));
    put("money-saved", amounts === null ? "–" : money(amounts.saved));
    this.#models.show(models.map(modelRow));
  }
}
