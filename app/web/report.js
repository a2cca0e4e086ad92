// "Report a bug": the form, filled in beforehand; what is already known; one bug however often it is sent.
import { bugLink, bugRow, pathOf } from "./bugs.js";
import { change, element, open, show } from "./dom.js";
import { NeedsKey, Refused, ask } from "./link.js";
import { keep, kept, state } from "./state.js";

const TYPING_MS = 300;
const LEAST_TITLE = 4;
const FORBIDDEN = 403;
const FIELDS = [
  ["title", "input"], ["description", "textarea"], ["severity", "select", "severities"], ["priority", "select", "priorities"],
  ["category", "select", "categories"], ["deviceId", "input"], ["firmwareVersion", "input"], ["siteCode", "input"], ["tags", "input"],
  ["reportedBy", "input"], ["reproductionSteps", "textarea"],
];
const form = show("report-form");
const field = (name) => form.elements.namedItem(name);
const wrongOf = (name) => show(`report-${name}-wrong`);

for (const [name, kind] of FIELDS) {
  const control = element(kind, { name, autocomplete: "off" });
  control.setAttribute("aria-describedby", `report-${name}-wrong`);
  const label = element("label", {}, element("span"), control, element("span", { id: `report-${name}-wrong`, className: "wrong" }));
  label.dataset.field = name;
  show("report-fields").append(label);
  if (name === "title") show("report-fields").append(element("div", { id: "report-similar", hidden: true }, element("p"), element("ul", { className: "bug-list" })));
}

// Labels and choices in the page's language; what was typed or chosen stays.
export function renderReport() {
  const { text } = state;
  for (const [name, kind, choices] of FIELDS) {
    change(field(name).closest("label").firstChild, text.fields[name]);
    if (kind !== "select") continue;
    const chosen = field(name).value;
    field(name).replaceChildren(...Object.entries(text[choices]).map(([value, label]) => element("option", { value, textContent: label })));
    field(name).value = chosen;
  }
  change(show("report-similar").firstChild, text.similarBugs);
}

let sample = null;
let sending = false;
let sent = { body: null, key: null }; // the same report keeps its key, another one gets another

export function openReport(draft, back) {
  renderReport();
  for (const [name] of FIELDS) field(name).value = draft[name] ?? "";
  field("tags").value = draft.tags.join(", ");
  field("reportedBy").value = kept("reporter", "");
  ({ sample } = draft);
  sent = { body: null, key: null };
  complain({});
  show("report-done").hidden = true;
  form.hidden = false;
  open(show("report"), back);
  findSimilar();
}

function complain(wrong, otherwise = "") {
  for (const [name] of FIELDS) {
    change(wrongOf(name), wrong[name] ?? "");
    field(name).setAttribute("aria-invalid", String(name in wrong));
  }
  change(show("report-error"), otherwise);
  Object.keys(wrong).map(field).find(Boolean)?.focus();
}

// What is already known under a title like this one: asked when the typing pauses; an answer to what stood there before is none.
let pause = null;
async function findSimilar() {
  clearTimeout(pause);
  const title = field("title").value.trim();
  const place = show("report-similar");
  if (title.length < LEAST_TITLE) {
    place.hidden = true;
    return;
  }
  const { items } = await ask(`/api/bugs/similar?title=${encodeURIComponent(title)}&limit=5`).catch(() => ({ items: [] }));
  if (title !== field("title").value.trim()) return;
  place.lastChild.replaceChildren(...items.map(bugRow));
  place.hidden = !items.length;
}
form.addEventListener("input", (event) => {
  if (event.target !== field("title")) return;
  clearTimeout(pause);
  pause = setTimeout(findSimilar, TYPING_MS);
});

function said() {
  const typed = FIELDS.map(([name]) => [name, field(name).value.trim()]).filter(([name, value]) => value || ["title", "description"].includes(name));
  const report = Object.fromEntries(typed);
  report.tags = (report.tags ?? "").split(",").map((one) => one.trim()).filter(Boolean);
  return report;
}

// Works on pages that are not served over TLS too, where randomUUID is not.
const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

async function send() {
  const body = JSON.stringify(said());
  if (sent.body !== body) sent = { body, key: newKey() };
  const made = await ask("/api/bugs/", { method: "POST", body, headers: { "Idempotency-Key": sent.key } });
  let linked = true;
  if (sample) {
    const link = JSON.stringify({ kind: "sample", ...sample });
    linked = await ask(`${pathOf(made.id)}/links`, { method: "POST", body: link }).then(() => true, () => false);
  }
  done(made, linked);
}

function done(made, linked) {
  const link = bugLink(made, `#${made.number}`);
  show("report-done-text").replaceChildren(`${state.text.bugReported} `, link);
  change(show("report-done-note"), linked ? "" : state.text.sampleNotLinked);
  form.hidden = true;
  show("report-done").hidden = false;
  link.focus();
  keep("reporter", field("reportedBy").value.trim());
  document.dispatchEvent(new CustomEvent("bug-reported"));
}

// What the API says of a field stands at that field, the rest below the form.
function explain(error) {
  const { text } = state;
  if (error instanceof NeedsKey || error.status === FORBIDDEN) return complain({}, text.mayNotReport);
  if (!(error instanceof Refused)) return complain({}, text.reportFailed);
  const wrong = {};
  const rest = [];
  for (const { pointer, why } of error.problem.errors ?? []) {
    const name = pointer?.split("/")[1];
    if (FIELDS.some(([known]) => known === name)) wrong[name] ??= why;
    else rest.push([name, why].filter(Boolean).join(text.colon));
  }
  const general = Object.keys(wrong).length || rest.length ? rest.join("; ") : error.problem.detail ?? text.failed;
  return complain(wrong, general);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (sending) return;
  sending = true;
  show("report-send").setAttribute("aria-disabled", "true");
  change(show("report-send"), state.text.sending);
  complain({});
  try {
    await send();
  } catch (error) {
    explain(error);
  } finally {
    sending = false;
    show("report-send").removeAttribute("aria-disabled");
    change(show("report-send"), state.text.send);
  }
});
for (const name of ["report-cancel", "report-close"]) show(name).addEventListener("click", () => show("report").close());
