/** The dashboard: passes each event of the stream to the panels. */

import { Cache } from "./cache.js";
import { Configuration, showDaemon } from "./daemon.js";
import { duration } from "./format.js";
import { History } from "./history.js";
import { byId, put, showStatus } from "./page.js";
import { Range } from "./range.js";
import { Stream } from "./stream.js";
import { Tables } from "./tables.js";
import { showTiles } from "./tiles.js";
import { charts } from "./timeline.js";
import { Token } from "./token.js";
import { Verdict } from "./verdict.js";

/** @import { Phase } from "./stream.js" */

const history = new History();
const timeline = charts();
const tables = new Tables();
const verdict = new Verdict();
const range = new Range(() => last && showRange(last));
const token = new Token(() => stream.start());
const headers = () => token.headers();
const cache = new Cache(headers);
const configuration = new Configuration(headers);
const stream = new Stream("/dashboard/events", headers, onEvent, onPhase);
let last = /** @type {any} */ (null); // the document of the last state event

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
      byId("ready").hidden = true;
      verdict.showDisconnected(phase.why);
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
  last = now;
  byId("content").hidden = false;
  byId("ready").hidden = false;
  showStatus("ready", now.readiness === "ready" ? "good" : "bad", now.readiness);
  put("about", `${now.version} · up ${duration(now.uptime_seconds)}`);
  verdict.show(now.verdict);
  showDaemon(now);
  configuration.show(now.reload);
  history.add([now.slot]);
  showRange(now);
}

/** Show what depends on the time range. @param {any} now */
function showRange(now) {
  const shown = range.of(now);
  showTiles(now, shown);
  tables.show(now, shown);
  cache.show(now.cache, shown.bypasses);
  timeline.show(history, shown, range.seconds);
}

stream.start();
