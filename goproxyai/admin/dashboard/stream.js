/**
 * Server-sent events over fetch, because an EventSource cannot send a bearer.
 *
 * 1. A connection that ends, fails, or is silent for SILENCE is tried again, after 1 s, 2 s, 4 s …
 *    LONGEST; the first event of a connection puts the wait back to 1 s.
 * 2. 401 and 403 end it: somebody has to give a token, and start it again.
 * 3. No more of an event is held than LARGEST.
 */

/** @typedef {{name: "connecting"} | {name: "live"} | {name: "refused"} |
 *            {name: "waiting", seconds: number, why: string}} Phase */

const SILENCE = 15_000; // milliseconds; the daemon says something every second
const LONGEST = 30; // seconds
const LARGEST = 4_000_000; // characters

/** What the daemon answered instead of events. */
class Refusal extends Error {
  /** @param {number} status */
  constructor(status) {
    super(`the daemon answered ${status}`);
    this.status = status;
  }
}

export class Stream {
  /** @type {AbortController | undefined} */
  #running;

  /**
   * @param {string} url
   * @param {() => Record<string, string>} headers asked for each connection
   * @param {(name: string, data: any) => void} onEvent
   * @param {(phase: Phase) => void} onPhase
   */
  constructor(url, headers, onEvent, onPhase) {
    this.url = url;
    this.headers = headers;
    this.onEvent = onEvent;
    this.onPhase = onPhase;
  }

  /** Begin, or begin anew. */
  start() {
    this.#running?.abort();
    this.#running = new AbortController();
    this.#run(this.#running.signal);
  }

  /** @param {AbortSignal} ended */
  async #run(ended) {
    let wait = 1;
    while (!ended.aborted) {
      this.onPhase({ name: "connecting" });
      const failure = await this.#connection(ended, () => (wait = 1));
      if (ended.aborted) return;
      if (failure instanceof Refusal && [401, 403].includes(failure.status)) {
        this.onPhase({ name: "refused" });
        return;
      }
      await this.#pause(ended, wait, failure.message);
      wait = Math.min(2 * wait, LONGEST);
    }
  }

  /**
   * One connection, from its request to its end; never throws.
   * @param {AbortSignal} ended
   * @param {() => void} onFirst
   * @returns {Promise<Error>} why it ended
   */
  async #connection(ended, onFirst) {
    const silence = new AbortController();
    const silent = () => silence.abort(new Error("nothing came for a while"));
    let timer = setTimeout(silent, SILENCE);
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(silent, SILENCE);
    };
    try {
      const response = await fetch(this.url, {
        headers: { Accept: "text/event-stream", ...this.headers() },
        cache: "no-store",
        redirect: "error",
        signal: AbortSignal.any([ended, silence.signal]),
      });
      if (!response.ok || !response.body) throw new Refusal(response.status);
      await this.#read(response.body, ended, heard, onFirst);
      return new Error("the daemon ended the connection");
    } catch (error) {
      // A browser's own words for "no connection" differ, and say nothing more than this.
      return error instanceof TypeError ? new Error("no connection") : /** @type {Error} */ (error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
   * @param {AbortSignal} ended
   * @param {() => void} heard
   * @param {() => void} onFirst
   */
  async #read(body, ended, heard, onFirst) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    let first = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || ended.aborted) return;
      heard();
      const events = (pending + value.replaceAll("\r", "")).split("\n\n");
      pending = events.pop() ?? "";
      if (pending.length > LARGEST) throw new Error("an event is too long");
      for (const [name, data] of events.map(parsed).filter(([, data]) => data)) {
        if (first) {
          onFirst();
          this.onPhase({ name: "live" });
          first = false;
        }
        this.#tell(name, JSON.parse(data));
      }
    }
  }

  /**
   * A defect in who listens is none of the connection's: it goes to the console.
   * @param {string} name
   * @param {any} data
   */
  #tell(name, data) {
    try {
      this.onEvent(name, data);
    } catch (error) {
      reportError(error);
    }
  }

  /**
   * @param {AbortSignal} ended
   * @param {number} seconds
   * @param {string} why
   */
  async #pause(ended, seconds, why) {
    for (let left = seconds; left > 0 && !ended.aborted; left -= 1) {
      this.onPhase({ name: "waiting", seconds: left, why });
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

/**
 * @param {string} text one event, without the empty line after it
 * @returns {[string, string]} its name and its data, which is empty where there was a comment only
 */
function parsed(text) {
  const fields = new Map([["event", "message"], ["data", ""]]);
  for (const line of text.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (name) fields.set(name, value);
  }
  return [fields.get("event") ?? "", fields.get("data") ?? ""];
}
