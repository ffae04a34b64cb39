// Tables: the leaderboard, settings and their differences, commands, and the verdict.

const LEADERS = 30, COMPARED = 5, COMMANDS = 5, JUDGED = 12, JUDGED_PICTURES = 4;
const STATES = { finished: "finished", "stopped early": "early", failed: "failed", running: "running", working: "working" };

// ---- the leaderboard

let COLUMNS = [];
const LEADING = new Map(); // the row of each trial

/** Columns of the leaderboard: {key, title, value(trial), text(trial), number}. */
function leaderColumns() {
  const some = (test) => TRIALS.some(test);
  const column = (key, title, value, number = true, text = (trial) => short(value(trial))) => ({ key, title, value, number, text });
  const columns = [
    column("name", "trial", nameOf, false, nameOf),
    column("rank", "rank", (trial) => trial.rank),
    ...METRICS.map((metric) => column(METRICS.length > 1 ? metric : "value", metric, (trial) => valueByName(trial, metric))),
  ];
  if (some((trial) => trial.spread != null)) {
    columns.push(column("mean", "mean of seeds", (trial) => trial.mean, true,
      (trial) => (trial.mean == null ? "–" : `${short(trial.mean)}` + (trial.spread == null ? "" : ` ± ${short(trial.spread, 2)}`))));
  }
  if (some((trial) => trial.vs_best)) columns.push(column("vs_best", "vs best", (trial) => trial.vs_best, false, (trial) => trial.vs_best || ""));
  if (some((trial) => trial.first != null)) columns.push(column("first", "first", (trial) => trial.first));
  if (some((trial) => trial.best != null && trial.best !== trial.value)) {
    columns.push(column("best", "best", (trial) => trial.best, true, (trial) => (trial.best == null ? "–" : `${short(trial.best)} at ${trial.best_step}`)));
  }
  for (const name of searched()) {
    const number = some((trial) => typeof settingOf(trial, name) === "number");
    columns.push(column(name, name, (trial) => settingOf(trial, name), number));
  }
  columns.push(column("step", "step", (trial) => trial.step, true, (trial) => (trial.steps ? `${trial.step}/${trial.steps}` : String(trial.step))));
  columns.push(column("seconds", "time", (trial) => trial.seconds, true, (trial) => duration(trial.seconds)));
  columns.push(column("state", "state", (trial) => trial.state, false));
  if (PAGE.groups.length > 1) columns.push(column("of", "of", (trial) => group(trial).name, false));
  if (some((trial) => trial.worry || trial.reason)) columns.push(column("remark", "remark", (trial) => trial.reason || trial.worry, false, (trial) => trial.reason || trial.worry || ""));
  return columns;
}

function makeLeaderboard() {
  COLUMNS = leaderColumns();
  const heads = COLUMNS.map((one) => element("th", { scope: "col", class: one.number ? "number" : null, "data-key": one.key },
    element("button", { type: "button", click: () => sortBy(one.key) }, one.title)));
  $("leaderboard-table").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody"));
  for (const trial of TRIALS) LEADING.set(trial, leaderRow(trial));
  const seeds = TRIALS.some((trial) => trial.spread != null);
  $("leaderboard-hint").textContent = "Click a row to highlight its trial in all parts of the page, a heading to sort." + (seeds
    ? " Trials that differ only in their seed share the rank of their mean; ± is the standard deviation over the seeds." : "")
    + (TRIALS.some((trial) => trial.vs_best) ? " Tied: the difference from the best may be chance." : "");
  addPart("leaderboard", "leaderboard", drawLeaderboard);
}

function leaderRow(trial) {
  const cells = COLUMNS.map((one, place) => {
    if (place === 0) return element("td", {}, nameButton(trial));
    const cell = element("td", { class: one.key === "remark" ? "wrap" : one.number ? "number" : null }, one.text(trial));
    if (one.key === "state") cell.className = `state ${STATES[trial.state] || ""}`;
    return cell;
  });
  return element("tr", { click: () => { if (!String(getSelection())) mark(trial); } }, ...cells);
}

function sortBy(key) {
  const column = COLUMNS.find((one) => one.key === key);
  if (state.sort === key) state.down = !state.down;
  else Object.assign(state, { sort: key, down: PAGE.groups.some((one) => one.metric === column.title && one.mode === "max") });
  tell("shown", "leaderboard");
}

/** The order of two values of a column; missing values come last in either direction. */
function compare(one, other, down) {
  if (one == null || other == null) return (one == null) - (other == null);
  const order = typeof one === "number" && typeof other === "number" ? one - other : show(one).localeCompare(show(other), "en", { numeric: true });
  return down ? -order : order;
}

function drawLeaderboard(kind) {
  if (kind === "marks") return paintLeaders();
  if (kind === "names" || kind === "colours") {
    for (const [trial, row] of LEADING) row.firstChild.replaceChildren(nameButton(trial));
    if (kind === "colours") return undefined;
  }
  const column = COLUMNS.find((one) => one.key === state.sort) || COLUMNS[1];
  for (const head of $("leaderboard-table").querySelectorAll("th")) {
    if (head.dataset.key === column.key) head.setAttribute("aria-sort", state.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const sorted = [...shown()].sort((one, other) => compare(column.value(one), column.value(other), state.down) || one.order - other.order);
  const most = first("leaderboard", LEADERS, sorted);
  $("leaderboard-table").tBodies[0].replaceChildren(...most.map((trial) => LEADING.get(trial)));
  offerMore("leaderboard", LEADERS, most.length, sorted.length);
  return paintLeaders();
}

function paintLeaders() {
  for (const [trial, row] of LEADING) {
    const marked = state.marked.has(trial.id);
    row.querySelector(".swatch").style.background = colourOf(trial);
    if (row.classList.contains("marked") !== marked) {
      row.classList.toggle("marked", marked);
      row.firstChild.firstChild.setAttribute("aria-pressed", String(marked));
    }
  }
}

// ---- settings and commands

/** The compared trials: the highlighted ones, else the best. */
function compared(most) {
  const marked = shown().filter((trial) => state.marked.has(trial.id));
  return marked.length ? marked.slice(0, 20) : shown().slice(0, most);
}

function drawSettings() {
  const trials = compared(COMPARED);
  const text = (trial, name) => (name in trial.settings || name in trial.other || name in PAGE.common ? show(settingOf(trial, name)) : "");
  const varied = [...new Set([...searched(), ...TRIALS.flatMap((trial) => Object.keys(trial.other))])];
  const names = state.all ? [...varied, ...Object.keys(PAGE.common)] : varied;
  $("settings-hint").textContent = (trials.some((trial) => state.marked.has(trial.id)) ? "The highlighted trials." : "The best trials; highlight trials to compare them instead.")
    + (varied.length ? " Differences from the first one are blue." : " No setting differs.");
  const rows = names.map((name) => element("tr", {}, element("th", { scope: "row" }, name), ...trials.map((trial) => {
    const told = text(trial, name);
    return element("td", { class: told !== text(trials[0], name) ? "differs" : null }, told);
  })));
  $("settings-table").replaceChildren(
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "setting"), ...trials.map((trial) => element("th", { scope: "col" }, nameButton(trial))))),
    element("tbody", {}, ...rows));
  $("commands").replaceChildren(...compared(COMMANDS).map(commandRow));
}

function commandRow(trial) {
  const text = element("pre", { class: "command", tabindex: "0" }, trial.command);
  const copy = element("button", { type: "button", click: () => copyText(text, copy) }, "copy");
  const remark = [trial.repeats, trial.worry && `worry: ${trial.worry}`, trial.reason && `failed: ${trial.reason}`].filter(Boolean).join(" ");
  return element("div", { class: "command-row" }, element("div", { class: "row-head" }, nameButton(trial), copy,
    element("span", { class: "hint" }, remark)), text);
}

/** Copies the text of an element; for a local file the browser may allow only the old way. */
async function copyText(from, button) {
  getSelection().selectAllChildren(from);
  let done = false;
  try { await navigator.clipboard.writeText(from.textContent); done = true; } catch { done = document.execCommand("copy"); }
  button.textContent = done ? "copied" : "selected: copy it manually";
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

// ---- the verdict

const BETTER = { precision: "↑", recall: "↑", density: "↑", coverage: "↑", classes_covered: "↑", frechet_distance: "↓", kernel_distance: "↓",
  class_kl: "↓", memorization_rate: "≈", copy_test: "≈" }; // higher, lower, or as close as possible to the real one

function drawVerdict() {
  const judged = shown().filter((trial) => trial.verdict[state.which]?.numbers);
  const trials = first("verdict", JUDGED, judged);
  const told = (trial) => trial.verdict[state.which];
  const names = [...new Set(TRIALS.flatMap((trial) => Object.keys(trial.verdict[state.which]?.numbers || {})))];
  const heads = ["trial", "step", ...names].map((name, place) => element("th", { scope: "col", class: place ? "number" : null },
    `${name.replaceAll("_", " ")} ${BETTER[name] || ""}`));
  const rows = trials.map((trial) => element("tr", { class: state.marked.has(trial.id) ? "marked" : null },
    element("td", {}, nameButton(trial)), element("td", { class: "number" }, String(told(trial).step)),
    ...names.map((name) => {
      const sides = told(trial).numbers[name];
      return element("td", { class: "number" }, ...(sides ? [element("span", { class: "generated" }, short(sides.generated)),
        element("span", { class: "real" }, `real ${short(sides.real)}`)] : []));
    })));
  $("verdict-table").replaceChildren(element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  const from = new Set(judged.map((trial) => `${told(trial).samples} samples by ${told(trial).features}`));
  const notes = new Set(judged.flatMap((trial) => told(trial).notes || []));
  $("verdict-hint").textContent = `Each number of generated samples is shown above that of held-out real ones, the best that can be reached. ↑ higher is better, ↓ lower is better, ≈ closest to real is best. ${[...from].join("; ")}. ${[...notes].join(" ")}`;
  offerMore("verdict", JUDGED, trials.length, judged.length);
  const some = marksFirst(judged).slice(0, Math.max(JUDGED_PICTURES, state.more.verdict ? trials.length : 0));
  $("verdict-pictures").replaceChildren(...some.map((trial) => {
    const pictures = ["verdict", "copies"].filter((name) => trial.pictures.includes(name));
    return pictures.length ? figureOf(trial, null, ...pictures.map((name) => element("img", { loading: "lazy", src: pictureOf(trial, `${name}.png`),
      alt: name === "verdict" ? `numbers of the verdict on ${nameOf(trial)}` : `samples of ${nameOf(trial)} over their nearest training images` }))) : null;
  }).filter(Boolean));
}

/** The same trials, the highlighted ones first. */
const marksFirst = (trials) => [...trials.filter((one) => state.marked.has(one.id)), ...trials.filter((one) => !state.marked.has(one.id))];

function makeTables() {
  makeLeaderboard();
  $("all-settings").addEventListener("change", (event) => { state.all = event.target.checked; tell("shown", "settings"); });
  $("all-settings").checked = state.all;
  addPart("settings", "settings", drawSettings);
  if (TRIALS.some((trial) => Object.keys(trial.verdict).length)) {
    $("verdict").hidden = false;
    $("verdict-which").value = state.which;
    $("verdict-which").addEventListener("change", (event) => { state.which = event.target.value; tell("shown", "verdict"); });
    addPart("verdict", "verdict", drawVerdict);
  }
}
