/**
 * Server-sent events over fetch, because an EventSource cannot send a bearer token.
 *
 * 1. After a connection ends, fails, or is silent for SILENCE_MS, the stream reconnects: after 1 s,
 *    2 s, 4 s and so on, up to MAX_WAIT_SECONDS. The first event of a connection resets the wait.
 * 2. The stream ends at a 401 or 403. It has to be started again once there is a token.
 * 3. An event may have at most MAX_EVENT_CHARACTERS.
 */

/** @typedef {{name: "connecting"} | {name: "live"} | {name: "refused", why: string} |
 *            {name: "waiting", seconds: number, why: string}} Phase */

const SILENCE_MS = 15_000; // the daemon sends an event every second
const MAX_WAIT_SECONDS = 30;
const MAX_EVENT_CHARACTERS = 4_000_000;

/** A response without an event stream. */
class Refusal extends Error {
  /**
   * @param {number} status
   * @param {string} message of the daemon
   */
  constructor(status, message) {
    super(message || `the daemon answered ${status}`);
    this.status = status;
  }

  /** @param {Response} response */
  static async of(response) {
    const document = await response.json().catch(() => null);
    return new Refusal(response.status, document?.error?.message ?? "");
  }
}

export class Stream {
  /** @type {AbortController | undefined} */
  #running;

  /**
   * @param {string} url
   * @param {() => Record<string, string>} headers called for each connection
   * @param {(name: string, data: any) => void} onEvent
   * @param {(phase: Phase) => void} onPhase
   */
  constructor(url, headers, onEvent, onPhase) {
    this.url = url;
    this.headers = headers;
    this.onEvent = onEvent;
    this.onPhase = onPhase;
  }

  /** Start, or restart, the stream. */
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
        this.onPhase({ name: "refused", why: failure.message });
        return;
      }
      await this.#pause(ended, wait, failure.message);
      wait = Math.min(2 * wait, MAX_WAIT_SECONDS);
    }
  }

  /**
   * Run one connection from its request to its end; never throws.
   * @param {AbortSignal} ended
   * @param {() => void} onFirst
   * @returns {Promise<Error>} why the connection ended
   */
  async #connection(ended, onFirst) {
    const silence = new AbortController();
    const silent = () => silence.abort(new Error(`no event for ${SILENCE_MS / 1000} seconds`));
    let timer = setTimeout(silent, SILENCE_MS);
    const onData = () => {
      clearTimeout(timer);
      timer = setTimeout(silent, SILENCE_MS);
    };
    try {
      const response = await fetch(this.url, {
        headers: { Accept: "text/event-stream", ...this.headers() },
        cache: "no-store",
        redirect: "error",
        signal: AbortSignal.any([ended, silence.signal]),
      });
      if (!response.ok || !response.body) throw await Refusal.of(response);
      await this.#read(response.body, ended, onData, onFirst);
      return new Error("the daemon ended the connection");
    } catch (error) {
      // Browsers word a failed connection differently; none of them gives a reason.
      return error instanceof TypeError ? new Error("no connection") : /** @type {Error} */ (error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * @param {ReadableStream<Uint8Array<ArrayBuffer>>} body
   * @param {AbortSignal} ended
   * @param {() => void} onData
   * @param {() => void} onFirst
   */
  async #read(body, ended, onData, onFirst) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let pending = "";
    let first = true;
    for (;;) {
      const { done, value } = await reader.read();
      if (done || ended.aborted) return;
      onData();
      const events = (pending + value.replaceAll("\r", "")).split("\n\n");
      pending = events.pop() ?? "";
      if (pending.length > MAX_EVENT_CHARACTERS) throw new Error("an event is too long");
      for (const [name, data] of events.map(parsed).filter(([, data]) => data)) {
        if (first) {
          onFirst();
          this.onPhase({ name: "live" });
          first = false;
        }
        this.#dispatch(name, JSON.parse(data));
      }
    }
  }

  /**
   * An exception of the listener goes to the console and does not end the connection.
   * @param {string} name
   * @param {any} data
   */
  #dispatch(name, data) {
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
 * @param {string} text one event, without the empty line that ends it
 * @returns {[string, string]} name and data; a comment has empty data
 */
function parsed(text) {
  const fields = new Map([["event", "message"], ["data", ""]]);
  for (const line of text.split("\n")) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line) ?? [];
    if (name) fields.set(name, value);
  }
  return [fields.get("event") ?? "", fields.get("data") ?? ""];
}
