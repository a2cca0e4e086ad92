// Bugs: the open ones, those of a device or a liver, one with its comments. What is shown of them, and where.
import { change, element, open, show } from "./dom.js";
import { ask } from "./link.js";
import { HOUR_MS, MINUTE_MS, now, state } from "./state.js";

const UNSETTLED = "open,in_progress,awaiting_info,reopened";
const MOST_LISTED = 20;
const MOST_COMMENTS = 50;
const DAY_MS = 24 * HOUR_MS;

export const pathOf = (id) => `/api/bugs/${encodeURIComponent(id)}`;

export async function loadOpenBugs() {
  const { site } = state;
  const only = site ? `&site=${encodeURIComponent(site)}` : "";
  const found = await ask(`/api/bugs/?status=${UNSETTLED}&sort=-severity&limit=${MOST_LISTED}${only}`);
  if (site !== state.site) return;
  Object.assign(state, { bugs: found.bugs, bugCount: found.total, moreBugs: !found.totalIsExact });
  renderOpenBugs();
}

export function renderOpenBugs() {
  const { text, format, bugs } = state;
  const focused = document.activeElement?.closest("#bugs") && document.activeElement.dataset.bug;
  change(show("bug-count"), bugs ? `${format.whole(state.bugCount)}${state.moreBugs ? "+" : ""}` : "–");
  const none = element("li", { className: "none", textContent: bugs ? text.noBugs : "–" });
  show("bugs").replaceChildren(...(bugs?.length ? bugs.map(bugRow) : [none]));
  if (focused) show("bugs").querySelector(`[data-bug="${focused}"]`)?.focus();
}

function ageOf(time) {
  const passed = Math.max(0, now() - Date.parse(time));
  const [unit, length] = passed < HOUR_MS ? ["minute", MINUTE_MS] : passed < DAY_MS ? ["hour", HOUR_MS] : ["day", DAY_MS];
  return state.text.age(state.format.whole(Math.floor(passed / length)), unit);
}

// Number and title, as a link; what it is now.
export function bugRow(bug) {
  const { text } = state;
  const facts = [text.severities[bug.severity], text.statuses[bug.status], bug.deviceId, bug.createdAt && ageOf(bug.createdAt)];
  const row = element("li", {}, bugLink(bug, `#${bug.number} ${bug.title}`),
    element("span", { className: "quiet", textContent: facts.filter(Boolean).join(" · ") }));
  row.dataset.severity = bug.severity ?? "";
  return row;
}

export function bugLink(bug, label) {
  const link = element("a", { href: pathOf(bug.id), textContent: label });
  link.dataset.bug = bug.id;
  return link;
}

// Those of a device or a liver: { name, path, report }, the last one opening a report.
export async function showBugsOf(subject, back) {
  const dialog = show("bugs-of");
  const list = show("bugs-of-list");
  dialog.subject = subject;
  change(show("bugs-of-title"), state.text.bugsOf(subject.name));
  change(show("bugs-of-error"), "");
  show("bugs-of-report").hidden = !state.mayReport;
  list.replaceChildren(element("li", { className: "none", textContent: "–" }));
  open(dialog, back);
  try {
    const { items, nextCursor } = await ask(`${subject.path}/bugs?limit=${MOST_LISTED}`);
    if (dialog.subject !== subject) return;
    const rows = items.map(bugRow);
    if (nextCursor) rows.push(element("li", { className: "none", textContent: "…" }));
    list.replaceChildren(...(rows.length ? rows : [element("li", { className: "none", textContent: state.text.noBugs })]));
  } catch {
    change(show("bugs-of-error"), state.text.bugsFailed);
  }
}

async function showBug(id) {
  const { text } = state;
  const [bug, said] = await Promise.all([ask(pathOf(id)), ask(`${pathOf(id)}/comments?limit=${MOST_COMMENTS}`)]);
  change(show("bug-title"), `#${bug.number} ${bug.title}`);
  const facts = [
    text.statuses[bug.status], text.severities[bug.severity], bug.category && text.categories[bug.category], bug.deviceId, bug.firmwareVersion,
    bug.assignedTo && `${text.fields.assignedTo} ${bug.assignedTo}`, bug.fixedInFirmware && `${text.fields.fixedInFirmware} ${bug.fixedInFirmware}`,
    ageOf(bug.createdAt),
  ];
  change(show("bug-facts"), facts.filter(Boolean).join(" · "));
  change(show("bug-description"), bug.description);
  change(show("bug-resolution"), bug.resolution ? `${text.bugOutcome}${text.colon}${bug.resolution}` : "");
  const comments = said.comments.map((one) => element("li", {},
    element("span", { className: "quiet", textContent: [one.author ?? one.authorId, ageOf(one.createdAt), one.isInternal ? text.internal : ""].filter(Boolean).join(" · ") }),
    element("p", { className: "said", textContent: one.comment })));
  if (said.nextCursor) comments.push(element("li", { className: "none", textContent: "…" }));
  show("bug-comments-title").hidden = !comments.length;
  show("bug-comments").replaceChildren(...comments);
}

// A link to a bug shows it here, wherever it stands; with a modifier the browser does what it always does.
document.addEventListener("click", async (event) => {
  const link = event.target.closest?.("a[data-bug]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  try {
    await showBug(link.dataset.bug);
    open(show("bug"), link.closest("#bugs") ? `#bugs [data-bug="${link.dataset.bug}"]` : null);
  } catch {
    location.assign(link.href); // the server says why
  }
});
for (const name of ["bug", "bugs-of"]) show(`${name}-close`).addEventListener("click", () => show(name).close());
show("bugs-of-report").addEventListener("click", () => {
  show("bugs-of").close();
  show("bugs-of").subject.report();
});
