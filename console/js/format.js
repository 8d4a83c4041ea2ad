// Numbers, times and durations as texts.

const LOCALE = undefined; // the browser's
const COUNT = new Intl.NumberFormat(LOCALE);
const DAY = new Intl.DateTimeFormat(LOCALE, { weekday: "short", day: "numeric", month: "short", year: "numeric" });
const CLOCK = new Intl.DateTimeFormat(LOCALE, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const SHORT = new Intl.DateTimeFormat(LOCALE, {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});
const FULL = new Intl.DateTimeFormat(LOCALE, {
  day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
  fractionalSecondDigits: 3, hourCycle: "h23", timeZoneName: "short",
});

/** @param {number | string} number */
export const count = (number) => COUNT.format(Number(number));
/** @param {number | string} number @param {string} noun */
export const counted = (number, noun) => `${count(number)} ${noun}${Number(number) === 1 ? "" : "s"}`;

/** Milliseconds since 1970 of a timestamp. @param {string | undefined} timestamp */
export const millis = (timestamp) => (timestamp ? Date.parse(timestamp) : NaN);
/** @param {string | undefined} timestamp */
export const day = (timestamp) => (timestamp ? DAY.format(millis(timestamp)) : "");
/** @param {string | undefined} timestamp */
export const clock = (timestamp) => (timestamp ? CLOCK.format(millis(timestamp)) : "");
/** @param {string | undefined} timestamp */
export const fullTime = (timestamp) => (timestamp ? FULL.format(millis(timestamp)) : "");
/** @param {number} milliseconds */
export const shortTime = (milliseconds) => SHORT.format(milliseconds);

const UNITS = [
  ["d", 86_400_000],
  ["h", 3_600_000],
  ["min", 60_000],
  ["s", 1_000],
];

/** A duration with its largest units, such as `340 ms`, `4.2 s`, `2 h 5 min`. @param {number} milliseconds */
export function duration(milliseconds) {
  if (milliseconds < 1_000) return `${Math.max(0, Math.round(milliseconds))} ms`;
  if (milliseconds < 60_000) return `${(milliseconds / 1_000).toFixed(milliseconds < 10_000 ? 1 : 0)} s`;
  const first = UNITS.findIndex(([, size]) => milliseconds >= size);
  const [unit, size] = UNITS[first];
  const whole = Math.floor(milliseconds / size);
  const [nextUnit, nextSize] = UNITS[first + 1];
  const rest = Math.floor((milliseconds % size) / nextSize);
  return rest > 0 && whole < 100 ? `${whole} ${unit} ${rest} ${nextUnit}` : `${whole} ${unit}`;
}

/** A time relative to now, such as `5 min ago`. @param {string | undefined} timestamp */
export function ago(timestamp) {
  if (!timestamp) return "never";
  const passed = Date.now() - millis(timestamp);
  if (passed < -5_000) return fullTime(timestamp);
  if (passed < 45_000) return "just now";
  const [unit, size] = UNITS.find(([, each]) => passed >= each) ?? UNITS[3];
  return passed > 30 * 86_400_000 ? day(timestamp) : `${Math.max(1, Math.round(passed / size))} ${unit} ago`;
}

/** @param {number} bytes */
export function byteSize(bytes) {
  if (bytes < 1_024) return counted(bytes, "byte");
  if (bytes < 1_048_576) return `${(bytes / 1_024).toFixed(1)} KiB`;
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}

/** The value of a `datetime-local` input for a timestamp. @param {string | undefined} timestamp */
export function localInput(timestamp) {
  if (!timestamp || Number.isNaN(millis(timestamp))) return "";
  const date = new Date(timestamp);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}

/** The timestamp of a `datetime-local` input; undefined if it is empty. @param {string} value */
export function timestampOfInput(value) {
  const date = new Date(value);
  return value && !Number.isNaN(date.getTime()) ? date.toISOString() : undefined;
}
