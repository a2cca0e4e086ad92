// The line leader's screen, fed by the live feed and REST alone.
import { loadOpenBugs, showBugsOf } from "./bugs.js";
import { show } from "./dom.js";
import { draftOfAlert, draftOfDevice, draftOfSample } from "./drafts.js";
import { LiveLink, NeedsKey, ask } from "./link.js";
import { openReport } from "./report.js";
import { fits, keep, nextTheme, now, setLanguage, state, tick } from "./state.js";
import { otherLanguage } from "./texts.js";
import { render, renderAlerts, renderLine, renderLink, renderLiver, renderTexts } from "./view.js";

const REFRESH_MS = 60_000; // the feed tells the rest
const RETRY_MS = 10_000;
const SOON_MS = 2_000;
const REST_MS = 15_000; // between two refreshes that the feed asks for: a hundred screens must not be a load
const SHOWN_MS = 1_000; // each liver, at least: more than one a second nobody can read
const MOST_LISTED = 100;
const LATE_MS = 300_000; // older readings are a replay, not the line

const link = new LiveLink({
  filters: () => (state.site ? { site_code: state.site } : {}),
  message: hear,
  state: (linked) => {
    if (linked === "lost" && state.link !== "lost") state.lostAt = now();
    const again = linked === "live" && state.link !== "live";
    state.link = linked;
    if (again) {
      Object.assign(state, { arrivals: [], watchedSince: null });
      refresh();
    }
    renderLink();
  },
});

function hear(message) {
  state.clockAhead = Date.parse(message.timestamp) - Date.now();
  state.watchedSince ??= now();
  if (message.type === "sensor_update") {
    tick();
    if (Date.parse(message.data.bucket_time) >= state.hour) state.grades[message.data.grade] = (state.grades[message.data.grade] ?? 0) + 1;
    state.arrivals.push(now());
    takeSample(message.data);
    renderLine();
    if (state.loaded && !state.moreDevices && !state.devices.some((one) => one.device_id === message.data.device_id)) refreshSoon();
  } else if (message.type === "latest_sample" && message.data && fits(message.data)) { // the first one knows no filter
    takeSample(message.data);
  } else if (message.type === "alert") {
    takeAlert(message.data);
    renderAlerts();
  } else if (message.type === "conflated") {
    refreshSoon();
  }
}

function takeSample(sample) {
  const received = Date.parse(sample.received_at);
  const replayed = received - Date.parse(sample.bucket_time) > LATE_MS;
  if (state.newest && (replayed || received < Date.parse(state.newest.received_at))) return;
  state.newest = sample;
  renderLink();
  showNewest();
}

// Grade, reasons and pictures of one and the same liver; while it is shown the next ones wait, and the newest follows.
let showing = false;
async function showNewest() {
  if (showing) return;
  showing = true;
  while (state.newest && state.newest.id !== state.liver?.sample.id) {
    const sample = state.newest;
    const path = `/api/sqal/samples/${encodeURIComponent(sample.device_id)}/${encodeURIComponent(sample.sample_id)}`;
    const when = `?device_time=${encodeURIComponent(sample.device_time)}`;
    const detail = await Promise.all([ask(`${path}/frame${when}`), ask(`${path}/explanation${when}`)]).catch(complain);
    if (fits(sample)) {
      const [frame, explanation] = detail ?? [];
      state.liver = { sample, frame, explanation };
      renderLiver();
      renderLink();
    }
    await new Promise((done) => { setTimeout(done, SHOWN_MS); });
  }
  showing = false;
}

let refreshing = null;
let refreshed = 0;
function refresh() {
  refreshed = Date.now();
  refreshing ??= load().catch(complain).finally(() => { refreshing = null; });
  loadOpenBugs().catch(complain); // beside the rest: the line is shown without them too
  return refreshing;
}

let soon = null;
function refreshSoon() {
  const wait = Math.max(SOON_MS, refreshed + REST_MS - Date.now());
  soon ??= setTimeout(() => { soon = null; refresh(); }, wait);
}

let who = null;
async function load() {
  const { site } = state;
  const only = site ? `&site_code=${encodeURIComponent(site)}` : "";
  who ??= await ask("/api/session");
  const [dashboard, alerts, devices, samples] = await Promise.all([
    ask(`/api/sqal/dashboard?${only.slice(1)}`),
    ask(`/api/sqal/alerts?state=open&limit=${MOST_LISTED}${only}`), ask(`/api/sqal/devices?limit=${MOST_LISTED}${only}`),
    ask(`/api/sqal/samples?limit=1${only}`),
  ]);
  if (site !== state.site) return;
  tick();
  const running = dashboard.hours.find((one) => Date.parse(one.bucket) === state.hour);
  state.alerts = new Map();
  alerts.items.forEach(takeAlert);
  Object.assign(state, {
    dashboard, devices: devices.items, grades: { ...running?.grades }, loaded: true,
    moreAlerts: alerts.next_cursor !== null, moreDevices: devices.next_cursor !== null,
    loadedAt: now(), mayAcknowledge: may("operator"), mayReport: may("operator", "reporter"), signedIn: who.kind === "key",
  });
  if (!site) state.sites = dashboard.sites.map((one) => one.site_code).filter(Boolean);
  samples.items.forEach(takeSample);
  render();
}

const may = (...roles) => who.roles.some((role) => role === "admin" || roles.includes(role));

function takeAlert(alert) {
  if (alert.state === "open" && fits(alert)) state.alerts.set(alert.id, alert);
  else state.alerts.delete(alert.id);
}

function complain(error) {
  if (error instanceof NeedsKey) askForKey();
  else console.warn(error);
}

// A key that is no longer valid may stand in the way of a service that needs none.
let asking = false;
async function askForKey() {
  if (asking || show("sign-in").open) return;
  asking = true;
  try {
    await ask("/api/session", { method: "DELETE" });
    await ask("/api/session");
    refresh();
  } catch (error) {
    if (error instanceof NeedsKey) show("sign-in").showModal();
  } finally {
    asking = false;
  }
}

// What the user does

function reportLiver(liver) {
  openReport(draftOfSample(liver, state.text, state.format), "#liver-bugs");
}

show("liver-bugs").addEventListener("click", () => {
  const { liver } = state; // the one that is shown now
  const { device_id: device, sample_id: sample } = liver.sample;
  const path = `/api/sqal/samples/${encodeURIComponent(device)}/${encodeURIComponent(sample)}`;
  showBugsOf({ name: `${device}, ${sample}`, path, report: () => reportLiver(liver) }, "#liver-bugs");
});
show("devices").addEventListener("click", (event) => {
  const device = state.devices.find((one) => one.device_id === event.target.dataset?.device);
  if (!device) return;
  const back = `#devices [data-device="${CSS.escape(device.device_id)}"]`;
  const path = `/api/sqal/devices/${encodeURIComponent(device.device_id)}`;
  showBugsOf({ name: device.device_id, path, report: () => openReport(draftOfDevice(device, state.text), back) }, back);
});
show("alerts").addEventListener("click", async (event) => {
  const alert = state.alerts.get(event.target.dataset?.report);
  if (!alert) return;
  const { device_id: id, sample_id: sampleId, sample_time: time } = alert;
  const known = state.devices.find((one) => one.device_id === id);
  const path = `/api/sqal/samples/${encodeURIComponent(id)}/${encodeURIComponent(sampleId)}`;
  const [device, sample] = await Promise.all([
    id && ask(`/api/sqal/devices/${encodeURIComponent(id)}`).catch(() => known), // as it is now; the list may be a minute old
    id && sampleId && ask(`${path}?device_time=${encodeURIComponent(time)}`).catch(() => null),
  ]);
  openReport(draftOfAlert(alert, device, sample, state.text), `#alerts [data-report="${alert.id}"]`);
});
document.addEventListener("bug-reported", () => loadOpenBugs().catch(complain));
show("alerts").addEventListener("click", async (event) => {
  const id = event.target.dataset?.alert;
  if (!id) return;
  try {
    takeAlert(await ask(`/api/sqal/alerts/${id}/acknowledge`, { method: "POST" }));
    show("alert-error").textContent = "";
    renderAlerts();
  } catch (error) {
    show("alert-error").textContent = state.text.failed;
    complain(error);
  }
});
show("language").addEventListener("click", () => {
  setLanguage(otherLanguage(state.language));
  keep("lang", state.language);
  render();
});
show("theme").addEventListener("click", () => {
  state.theme = nextTheme();
  keep("theme", state.theme);
  renderTexts();
});
show("site").addEventListener("change", async (event) => {
  keep("site", event.target.value);
  Object.assign(state, {
    site: event.target.value, newest: null, liver: null, dashboard: null, grades: {}, arrivals: [], watchedSince: now(), alerts: new Map(), devices: [], bugs: null, loaded: false,
  });
  render();
  link.subscribe();
  await refresh(); // perhaps one that was under way for the other site
  refresh();
});
show("sign-in").addEventListener("cancel", (event) => event.preventDefault());
show("sign-in").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await ask("/api/session", { method: "POST", body: JSON.stringify({ key: show("key").value }) });
    location.reload();
  } catch {
    show("sign-in-error").textContent = state.text.wrongKey;
  }
});
show("leave").addEventListener("click", async () => {
  await ask("/api/session", { method: "DELETE" });
  location.reload();
});

render();
link.open();
refresh();
setInterval(renderLink, 1_000);
setInterval(() => { tick(); renderLine(); }, 10_000);
setInterval(() => {
  if (state.loaded && now() - state.loadedAt < REFRESH_MS) return;
  if (Date.now() - refreshed >= RETRY_MS) refresh(); // sooner while none succeeds
}, 5_000);
