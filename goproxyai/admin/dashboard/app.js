/** The dashboard: passes each event of the stream to the panels. */

import { Cache } from "./cache.js";
import { count, counted, duration, milliseconds, moment, money, percent } from "./format.js";
import { History } from "./history.js";
import { charts } from "./hour.js";
import { byId, put, showStatus, Table } from "./page.js";
import { Stream } from "./stream.js";
import { Token } from "./token.js";

/** @import { Phase } from "./stream.js" */

const history = new History();
const hour = charts();
const tables = {
  routes: new Table("routes"),
  models: new Table("models"),
  upstreams: new Table("upstreams"),
  errors: new Table("errors"),
};
const token = new Token(() => stream.start());
const headers = () => token.headers();
const cache = new Cache(headers);
const stream = new Stream("/dashboard/events", headers, onEvent, onPhase);

/**
 * @param {string} name
 * @param {any} data
 */
function onEvent(name, data) {
  if (name === "slots") history.add(data.slots, data.seconds);
  if (name === "state") show(data);
}

/** @param {Phase} phase */
function onPhase(phase) {
  document.body.dataset.phase = phase.name;
  switch (phase.name) {
    case "connecting":
      showStatus("connection", "busy", "connecting");
      break;
    case "live":
      history.clear();
      token.accepted();
      hideSignIn();
      showStatus("connection", "good", "live");
      byId("connection").title = "";
      put("announcement", "Connected. The numbers are current.");
      break;
    case "waiting":
      showStatus("connection", "bad", `reconnecting in ${phase.seconds} s`);
      byId("connection").title = phase.why;
      put("announcement", `Connection lost: ${phase.why}. The numbers are out of date.`);
      break;
    case "refused":
      showStatus("connection", "bad", "token required");
      byId("content").hidden = true;
      byId("ready").hidden = true;
      byId("sign-in").hidden = false;
      put("announcement", "");
      put("about", "");
      put("sign-in-reason", phase.why);
      token.refused();
  }
}

/** Hide the sign-in form, and move its focus to the main content. */
function hideSignIn() {
  if (byId("sign-in").hidden) return;
  byId("sign-in").hidden = true;
  byId("main").focus();
}

/** @param {any} now the document of a state event */
function show(now) {
  byId("content").hidden = false;
  byId("ready").hidden = false;
  showStatus("ready", now.ready ? "good" : "bad", now.ready ? "ready" : "draining");
  put("about", `${now.version} · up ${duration(now.uptime_seconds)}`);
  showTiles(now);
  cache.show(now.cache);
  tables.routes.show(now.routes.map(routeRow));
  tables.models.show(now.tokens.models.map(modelRow));
  tables.upstreams.show(now.upstreams.map(upstreamRow));
  tables.errors.show(errorRows(now));
  history.add([now.slot]);
  hour.show(history, now.hour);
}

/** @param {any} now */
function showTiles({ hour, requests, tokens, connections }) {
  put("hour-requests", count(hour.requests));
  put("total", `${count(requests.total)} in total`);
  put("hour-ratio", percent(hour.hits, hour.lookups));
  put("hour-hits", `${count(hour.hits)} of ${counted(hour.lookups, "lookup")}`);
  put("hour-errors", count(hour.errors));
  put("limited", `${count(requests.limited)} rate limited in total`);
  put("hour-p50", milliseconds(hour.p50_ms));
  put("hour-p95", milliseconds(hour.p95_ms));
  put("hour-p99", milliseconds(hour.p99_ms));
  put("slow", `${count(requests.slow)} slow in total`);
  put("in-flight", count(requests.in_flight));
  put("connections", count(connections.open));
  put("connections-limit", `of at most ${count(connections.most)}`);
  put("open-streams", count(requests.open_streams));
  put("tokens-saved", count(tokens.cache.prompt + tokens.cache.completion));
  const spent = tokens.upstream.prompt + tokens.upstream.completion;
  put("tokens-spent", `${count(spent)} from upstream`);
  const unknown = tokens.unknown ? `${counted(tokens.unknown, "response")} without known usage.` : "";
  put("tokens-unknown", unknown);
  showMoney(tokens.money);
}

/** @param {{spent: number, saved: number} | null} amounts */
function showMoney(amounts) {
  byId("money").hidden = amounts === null;
  if (amounts === null) return;
  put("money-saved", money(amounts.saved));
  put("money-spent", `${money(amounts.spent)} spent`);
}

const MAX_CELL_CHARACTERS = 120; // of texts from requests and responses

/** @param {string} text */
const number = (text) => ({ text, class: "number" });

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

/** @param {any} route */
function routeRow({ route, requests, hits, errors }) {
  const cells = [
    short(route, "code"), number(count(requests)), number(count(hits)),
    { text: count(errors), class: errors ? "number error" : "number" },
  ];
  return { key: route, cells };
}

/** @param {any} model */
function modelRow({ model, upstream, cache }) {
  const cells = [
    short(model, "code"), number(count(upstream)), number(count(cache)),
    number(percent(cache, upstream + cache)),
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
        short(`${error.method} ${error.path}`, "code"),
        number(String(error.status)),
        { text: error.code ?? "", class: "code word" },
        short(error.detail ?? "", "prose"),
        short(error.request_id ?? "", "code"),
      ];
      return { key: `${key} ${times}`, cells };
    });
}

stream.start();
