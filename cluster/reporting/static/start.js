// Builds the page from the data.

function makeSummary() {
  const chips = (one) => {
    const trials = TRIALS.filter((trial) => PAGE.groups[trial.group] === one);
    const count = (name) => trials.filter((trial) => trial.state === name).length;
    const states = [...new Set(trials.map((trial) => trial.state))].map((name) => `${count(name)} ${name}`).join(", ");
    const told = { family: one.family, metric: one.metric && `${one.metric} (${one.mode === "max" ? "higher" : "lower"} is better)`, trials: `${trials.length}: ${states}` };
    if (one.kind === "search") Object.assign(told, { scheduler: one.scheduler, points: one.algorithm, took: duration(one.seconds || 0) });
    const made = Object.entries(told).filter(([, value]) => value).map(([name, value]) => element("span", { class: "chip" }, element("b", {}, `${name} `), String(value)));
    for (const [name, domain] of Object.entries(one.space || {})) made.push(element("span", { class: "chip" }, element("b", {}, `${name} `), show(domain)));
    return [PAGE.groups.length > 1 ? element("h3", {}, one.name) : null, element("div", { class: "chips" }, ...made), bestOf(one, trials), ...(one.luck || []).map((line) => element("p", { class: "hint" }, line))];
  };
  $("summary").replaceChildren(...PAGE.groups.flatMap(chips).filter(Boolean));
  if (PAGE.left_out.length) {
    $("summary").append(element("details", {}, element("summary", {}, `${PAGE.left_out.length} items are left out`),
      element("ul", { class: "plain" }, ...PAGE.left_out.slice(0, 200).map((line) => element("li", {}, line)))));
  }
}

function bestOf(one, trials) {
  const best = trials.find((trial) => trial.rank === 1);
  if (!best) return element("p", {}, "No trial has a value yet.");
  const settings = one.searched.filter((name) => name !== "seed").map((name) => `${name}=${show(best.settings[name])}`).join(" ");
  const told = best.spread == null ? short(best.value) : `${short(best.mean)} ± ${short(best.spread, 2)} over its seeds`;
  const line = element("p", {}, "Best: ", element("b", {}, `${one.metric} ${told}`), ` by ${nameOf(best)}`, settings ? element("span", {}, " with ", element("code", {}, settings)) : "");
  if (one.final) {
    const metrics = Object.entries(one.final.metrics || {}).map(([name, value]) => `${name} ${short(value)}`).join(", ");
    line.append(`. ${one.final.of} retrained as ${one.final.run}, on the test part: ${metrics}`);
  }
  return line;
}

function makeNavigation() {
  for (const section of document.querySelectorAll("main > section:not([hidden])")) {
    const title = section.querySelector("h2");
    if (title) $("parts").append(element("a", { href: `#${section.id}` }, { "settings-plots": "Metric", settings: "Settings", samples: "Samples", parallel: "Parallel",
      importance: "Importance", "pictures-of": "Pictures", curves: "Curves" }[section.id] || title.textContent));
  }
  $("about").replaceChildren(element("p", {}, "This page makes no network requests. Its numbers are beside it in ",
    element("a", { href: "trials.csv" }, "trials.csv"), " and ", element("a", { href: "report.json" }, "report.json"),
    ". Grids are drawn by the runs themselves; times in the timeline come from the workers' logs and the files that they wrote last."));
}

function makeTheme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null;
  try { chosen = localStorage.getItem("troupe theme"); } catch { /* no storage */ }
  const apply = () => {
    const wanted = chosen || (dark.matches ? "dark" : "light");
    const changed = root.dataset.theme !== wanted;
    root.dataset.theme = wanted;
    return changed;
  };
  apply();
  const follow = () => { if (apply()) tell("shown"), tell("colours"); };
  dark.addEventListener("change", follow);
  $("theme").addEventListener("click", () => {
    chosen = isDark() ? "light" : "dark";
    try { localStorage.setItem("troupe theme", chosen); } catch { /* for this session only */ }
    follow();
  });
}

/** With --watch the page reloads itself, but not while the user is active. */
function makeRenewals() {
  if (!PAGE.renew) return;
  let paused = false, touched = 0;
  $("pause").hidden = false;
  $("pause").addEventListener("click", () => {
    paused = !paused;
    $("pause").textContent = paused ? "resume reloading" : "pause reloading";
  });
  for (const kind of ["pointermove", "pointerdown", "keydown", "wheel", "touchmove"]) addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  addEventListener("pagehide", keep);
  const begun = Date.now();
  setInterval(() => {
    $("renewed").textContent = `as of ${PAGE.made}, still running`;
    const busy = paused || playing || document.hidden || Date.now() - touched < 3000 || document.activeElement?.classList.contains("name-input");
    if (!busy && Date.now() - begun > PAGE.renew * 1000) { keep(); location.reload(); }
  }, 1000);
}

async function start() {
  const told = JSON.parse(await unpack("bulk"));
  $("bulk").textContent = "";
  BULK = told;
  TRIALS = told.trials;
  TRIALS.forEach((trial, place) => { trial.place = place; });
  ORDERED = [...TRIALS].sort((one, other) => (one.rank ?? 1e9) - (other.rank ?? 1e9) || one.group - other.group || one.place - other.place);
  ORDERED.forEach((trial, order) => {
    trial.order = order;
    trial.words = [trial.id, trial.state, group(trial).family, ...Object.entries(trial.settings).map(([name, value]) => `${name}=${show(value)}`)].join(" ").toLowerCase();
  });
  if (TRIALS.every((trial) => !Object.keys(trial.other).length)) state.all = true; // otherwise the table would be empty
  const { scroll, heights } = remember();
  makeTheme();
  makeToolbox();
  makeSummary();
  makeParallel();
  makeTables();
  makePlots();
  makePictures();
  makeNavigation();
  makeRenewals();
  listTrials();
  if (heights) { // parts keep their heights until they are drawn, to restore the scroll position
    history.scrollRestoration = "manual";
    for (const [id, height] of Object.entries(heights)) if ($(id)) $(id).style.minHeight = `${height}px`;
    scrollTo(0, scroll);
  }
  document.documentElement.dataset.ready = "true";
}

start().catch(trouble);
