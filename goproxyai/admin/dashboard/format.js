/** Formats numbers and times for display. An unknown value is shown as a dash. */

const NONE = "–";
const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const COMPACT = new Intl.NumberFormat("en", {
  notation: "compact", minimumSignificantDigits: 3, maximumSignificantDigits: 3,
});
const FINER = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const MINUTE = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });
const DAY = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });

/** @param {number} number */
export function count(number) {
  return number < 1e6 ? WHOLE.format(number) : COMPACT.format(number);
}

/**
 * @param {number} number
 * @param {string} noun singular; the plural appends an s
 */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/**
 * @param {number} part
 * @param {number} whole
 */
export function percent(part, whole) {
  if (!whole) return NONE;
  const share = (100 * part) / whole;
  return `${share > 0 && share < 10 ? share.toFixed(1) : Math.round(share)} %`;
}

/** @param {number} bytes */
export function size(bytes) {
  if (bytes < 1024) return `${count(bytes)} B`;
  const power = Math.min(Math.floor(Math.log2(bytes) / 10), 3);
  const value = bytes / 1024 ** power;
  return `${value < 100 ? Number(value.toPrecision(3)) : WHOLE.format(value)} ${" KMG"[power]}B`;
}

/** @param {number | null} ms */
export function milliseconds(ms) {
  if (ms === null) return NONE;
  if (ms >= 999.5) return `${Number((ms / 1000).toPrecision(ms < 1e5 ? 3 : 4))} s`;
  return `${Number(ms.toPrecision(ms < 100 ? 2 : 3))} ms`;
}

/** @param {number} amount in the currency of the operator's price table */
export function money(amount) {
  return (amount < 1000 ? FINER : WHOLE).format(amount);
}

/** @param {number} seconds */
export function duration(seconds) {
  const parts = [
    [Math.floor(seconds / 86400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [Math.floor(seconds) % 60, "s"],
  ];
  const first = parts.findIndex(([value]) => value);
  const shown = first < 0 ? [[0, "s"]] : parts.slice(first, first + (first < 2 ? 2 : 1));
  return shown.map(([value, unit]) => `${value} ${unit}`).join(" ");
}

/** @param {number} unix seconds */
export function clock(unix) {
  return CLOCK.format(unix * 1000);
}

/** @param {number} unix seconds */
export function minute(unix) {
  return MINUTE.format(unix * 1000);
}

/**
 * The time of day, preceded by the date if that is not today's.
 * @param {number} unix seconds
 * @param {number} now
 */
export function moment(unix, now) {
  const [day, today] = [DAY.format(unix * 1000), DAY.format(now * 1000)];
  return day === today ? clock(unix) : `${day}, ${clock(unix)}`;
}
