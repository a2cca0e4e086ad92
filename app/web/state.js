// What the page knows, and the time by the server's clock.
import { formats, texts } from "./texts.js";

export const HOUR_MS = 3_600_000;
export const MINUTE_MS = 60_000;
const THEMES = ["auto", "light", "dark"];

// An address like /?lang=fr&site=LL (a screen on the wall) goes before what the browser kept.
const query = new URLSearchParams(location.search);
export const kept = (name, fallback) => query.get(name) ?? localStorage.getItem(`sqal-${name}`) ?? fallback;

// Without a liver for so long the page says so; a slow line may set its own, in seconds: /?stale=600
const STALE_MS = (Number(query.get("stale")) || 120) * 1_000;

const SILENT_MS = 150_000; // without an answer: two refreshes and more
const FIRST_MS = 10_000;

export const state = {
  theme: THEMES.includes(kept("theme", "auto")) ? kept("theme", "auto") : "auto",
  site: kept("site", ""),
  sites: [],
  link: "connecting",
  lostAt: null,
  clockAhead: 0, // of the server before this machine, ms
  newest: null, // the newest sample heard of
  liver: null, // the one that is shown: { sample, explanation, frame }
  dashboard: null,
  grades: {}, // of the running hour, counted on between two refreshes
  hour: 0,
  arrivals: [], // of the last minute
  watchedSince: null, // whether that is a minute yet
  alerts: new Map(),
  moreAlerts: false,
  devices: [],
  moreDevices: false,
  loaded: false,
  loadedAt: 0, // when REST last answered all that was asked
  bugs: null, // the gravest of those that are open, once they were read
  bugCount: 0,
  moreBugs: false,
  mayAcknowledge: false,
  mayReport: false,
  signedIn: false,
};

// By the server's clock, as its last message told it.
export const now = () => Date.now() + state.clockAhead;

// The link is there, but what the page asks for does not come.
export function isSilent() {
  const since = state.loaded ? state.loadedAt : state.watchedSince;
  return state.link === "live" && since !== null && now() - since > (state.loaded ? SILENT_MS : FIRST_MS);
}

// The link is there, but nothing comes over it.
export function isStale() {
  if (state.link !== "live" || !state.loaded) return false;
  return !state.newest || now() - Date.parse(state.newest.received_at) > STALE_MS;
}

// Livers a minute, from ten seconds on.
export function perMinute() {
  const watched = state.watchedSince === null ? 0 : Math.min(now() - state.watchedSince, MINUTE_MS);
  return watched < 10_000 ? null : (state.arrivals.length * MINUTE_MS) / watched;
}

export const fits = (item) => !state.site || item.site_code === null || item.site_code === state.site;

export function setLanguage(language) {
  Object.assign(state, { language, text: texts(language), format: formats(language) });
}

export function nextTheme() {
  return THEMES[(THEMES.indexOf(state.theme) + 1) % THEMES.length];
}

export function keep(name, value) {
  localStorage.setItem(`sqal-${name}`, value);
}

// A new hour begins with nothing; what came more than a minute ago is not of this one.
export function tick() {
  const hour = Math.floor(now() / HOUR_MS) * HOUR_MS;
  if (hour !== state.hour) Object.assign(state, { hour, grades: {} });
  state.arrivals = state.arrivals.filter((moment) => moment > now() - MINUTE_MS);
}

setLanguage(kept("lang", navigator.language.startsWith("fr") ? "fr" : "en") === "fr" ? "fr" : "en");
