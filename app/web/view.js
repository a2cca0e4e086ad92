// What the page shows: each function draws one part of `state`, and only what has changed.
import { drawHeights, drawSpectrum, drawTrend } from "./drawings.js";
import { renderOpenBugs } from "./bugs.js";
import { change, element, show } from "./dom.js";
import { renderReport } from "./report.js";
import { HOUR_MS, MINUTE_MS, isSilent, isStale, now, perMinute, state } from "./state.js";
import { otherLanguage, texts } from "./texts.js";

const GRADES = ["A+", "A", "B", "C", "REJECT", "NOT_GRADABLE"];
const DEVICE_ORDER = ["offline", "stale", "online", "never_seen"];
const MOST_NAMES = 12;
const MOST_REASONS = 5;

const nothing = () => element("li", { className: "none", textContent: state.loaded ? state.text.none : "–" });

export function render() {
  renderTexts();
  renderLink();
  renderLiver();
  renderLine();
  renderAlerts();
  renderDevices();
  renderOpenBugs();
}

export function renderTexts() {
  document.documentElement.lang = state.language;
  document.documentElement.dataset.theme = state.theme;
  for (const node of document.querySelectorAll("[data-text]")) change(node, state.text[node.dataset.text]);
  show("language").textContent = texts(otherLanguage(state.language)).name;
  show("language").lang = otherLanguage(state.language);
  show("theme").textContent = state.text.theme[state.theme];
  show("leave").hidden = !state.signedIn;
  renderSites();
  renderReport();
}

function renderSites() {
  const sites = [...new Set([...state.sites, ...(state.site ? [state.site] : [])])].sort();
  const options = [["", state.text.allSites], ...sites.map((site) => [site, site])];
  const select = show("site");
  if (JSON.stringify(options) !== select.dataset.options) {
    select.dataset.options = JSON.stringify(options);
    select.replaceChildren(...options.map(([value, label]) => element("option", { value, textContent: label })));
  }
  select.value = state.site;
}

export function renderLink() {
  const { text, format, newest } = state;
  const idle = newest ? Math.max(0, now() - Date.parse(newest.received_at)) : 0;
  let [shown, banner] = [state.link, ""];
  if (state.link === "lost") banner = text.lost(format.time(state.lostAt));
  else if (isSilent()) [shown, banner] = ["stale", text.silent];
  else if (isStale()) {
    shown = "stale";
    banner = newest ? text.stale(format.whole(Math.floor(idle / MINUTE_MS))) : text.never;
  }
  document.body.dataset.link = shown;
  show("link").dataset.state = shown;
  change(show("link"), text.link[shown]);
  show("banner").hidden = !banner;
  show("banner").dataset.state = shown;
  change(show("banner"), banner);
  change(show("clock"), format.time(now()));
  if (state.liver) {
    const received = state.liver.sample.received_at;
    const seconds = Math.max(0, Math.floor((now() - Date.parse(received)) / 1_000));
    change(show("when"), seconds < 60 ? text.ago(format.whole(seconds)) : text.at(format.time(received)));
  }
}

export function renderLiver() {
  const { text, format } = state;
  const { sample, explanation, frame } = state.liver ?? {};
  const grade = show("grade");
  change(grade, sample ? text[sample.grade] ?? sample.grade : "–");
  grade.dataset.grade = sample?.grade ?? "";
  grade.classList.toggle("long", (sample?.grade.length ?? 0) > 2);
  change(show("score"), sample && sample.score !== null ? format.fine(sample.score) : "–");
  change(show("origin"), sample ? [sample.device_id, sample.sample_id, sample.lot].filter(Boolean).join(" · ") : "");
  if (!sample) change(show("when"), "");
  show("liver-bugs").hidden = !sample;
  const said = (explanation?.reasons ?? []).map((reason) => text.reasons[reason.code]?.(reason, format) ?? reason.code);
  show("reasons").replaceChildren(...said.slice(0, MOST_REASONS).map((line) => element("li", { textContent: line })));
  const derived = explanation?.derived;
  drawHeights(show("heights"), derived?.heights_mm, derived?.defects ?? []);
  const heights = derived?.heights_mm ? text.heights(format.whole(Math.max(...derived.heights_mm.flat()))) : text.noHeights;
  change(show("heights-caption"), heights);
  show("heights").setAttribute("aria-label", heights);
  drawSpectrum(show("spectrum"), frame?.channels);
  const clear = frame ? text.spectrum(format.whole(frame.channels.Clear ?? 0)) : "";
  change(show("spectrum-caption"), clear);
  show("spectrum").setAttribute("aria-label", clear);
}

export function renderLine() {
  const { text, format } = state;
  const counts = GRADES.map((grade) => state.grades[grade] ?? 0);
  const all = counts.reduce((sum, one) => sum + one, 0);
  const graded = all - (state.grades.NOT_GRADABLE ?? 0);
  change(show("hour-count"), state.loaded || all ? format.whole(all) : "–");
  const rate = perMinute();
  change(show("per-minute"), rate === null ? "–" : format.whole(rate));
  change(show("conformity"), graded ? format.fine((graded - (state.grades.REJECT ?? 0)) / graded) : "–");
  const running = state.dashboard?.hours.find((one) => Date.parse(one.bucket) === Math.floor(now() / HOUR_MS) * HOUR_MS);
  change(show("average"), running?.score ? format.fine(running.score.average) : "–");
  show("grades").replaceChildren(...GRADES.map((grade, at) => {
    const bar = element("span", { className: "bar" });
    bar.style.setProperty("--part", all ? counts[at] / all : 0);
    const row = element("li", {}, element("span", { textContent: text[grade] ?? grade }), element("span", {}, bar),
      element("span", { className: "number", textContent: format.whole(counts[at]) }));
    row.dataset.grade = grade;
    return row;
  }));
  if (state.dashboard) {
    drawTrend(show("trend"), state.dashboard.hours, now(), format);
    show("trend").setAttribute("aria-label", text.trend);
  }
}

export function renderAlerts() {
  const list = show("alerts");
  const items = [...state.alerts.values()].sort(
    (a, b) => a.acknowledged - b.acknowledged || Date.parse(b.opened_at) - Date.parse(a.opened_at),
  );
  const focused = document.activeElement?.dataset?.alert;
  const reporting = document.activeElement?.dataset?.report;
  change(show("alert-count"), state.loaded ? `${state.format.whole(items.length)}${state.moreAlerts ? "+" : ""}` : "–");
  list.replaceChildren(...(items.length ? items.map(alertRow) : [nothing()]));
  // Who works with the keyboard stays where they were, or comes to the next alert, or to the heading.
  if (focused) (list.querySelector(`[data-alert="${focused}"]`) ?? list.querySelector("[data-alert]") ?? show("alerts-title")).focus();
  if (reporting) (list.querySelector(`[data-report="${reporting}"]`) ?? show("alerts-title")).focus();
}

function alertRow(alert) {
  const { text, format } = state;
  const title = text.rules[alert.rule] ?? alert.rule;
  const names = alert.devices.length ? alert.devices.slice(0, MOST_NAMES).join(", ") : alert.device_id ?? "";
  const rest = alert.devices.length > MOST_NAMES ? ` ${text.more(alert.devices.length - MOST_NAMES)}` : "";
  const facts = [
    alert.site_code, text.since(format.hour(alert.opened_at)),
    alert.occurrences > 1 ? text.times(format.whole(alert.occurrences)) : null, alert.acknowledged ? text.acknowledged : null,
  ];
  const row = element("li", {}, element("strong", { textContent: title }), element("span", { className: "names", textContent: names + rest }),
    element("span", { className: "quiet", textContent: facts.filter(Boolean).join(" · ") }));
  Object.assign(row.dataset, { severity: alert.severity, acknowledged: alert.acknowledged });
  const actions = element("div", { className: "actions" });
  const offer = (label, name) => {
    const button = element("button", { type: "button", textContent: label });
    button.dataset[name] = alert.id;
    button.setAttribute("aria-label", `${label}: ${title} ${names}`);
    actions.append(button);
  };
  if (!alert.acknowledged && state.mayAcknowledge) offer(text.acknowledge, "alert");
  if (state.mayReport) offer(text.reportBug, "report");
  row.append(actions);
  return row;
}

export function renderDevices() {
  const { text, format } = state;
  const states = state.dashboard?.device_states;
  const focused = document.activeElement?.dataset?.device;
  change(show("device-count"), states ? `${format.whole(states.online)} ${text.online}` : "");
  const sorted = [...state.devices].sort(
    (a, b) => DEVICE_ORDER.indexOf(a.state) - DEVICE_ORDER.indexOf(b.state) || a.device_id.localeCompare(b.device_id),
  );
  const rows = sorted.map((device) => {
    const label = element("span", { className: "state", textContent: text.states[device.state] });
    label.dataset.state = device.state;
    const name = element("button", { type: "button", className: "plain", textContent: device.device_id });
    name.dataset.device = device.device_id;
    name.setAttribute("aria-label", text.bugsOf(device.device_id));
    return element("li", {}, name, label);
  });
  if (state.moreDevices) rows.push(element("li", { className: "none", textContent: "…" }));
  show("devices").replaceChildren(...(rows.length ? rows : [nothing()]));
  if (focused) show("devices").querySelector(`[data-device="${CSS.escape(focused)}"]`)?.focus();
}
