// Plots with plotly: learning curves, the metric against settings, importance, the timeline and the clones.

const CURVES = 30, LANES = 40;

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A layout in the colours of the page. */
function layout(more) {
  const axis = () => ({ gridcolor: ink("--line"), zerolinecolor: ink("--line"), linecolor: ink("--faint"), tickcolor: ink("--faint"), automargin: true });
  const axes = Object.fromEntries(Object.entries(more).filter(([name]) => /^[xy]axis/.test(name)).map(([name, told]) => [name, { ...axis(), ...told }]));
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest", dragmode: innerWidth < 700 ? false : "zoom",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif", size: 12, color: ink("--ink") },
    margin: { l: 50, r: 12, t: 10, b: 40 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("--faint"), activecolor: ink("--blue") },
    hoverlabel: { bgcolor: ink("--paper"), bordercolor: ink("--faint"), font: { color: ink("--ink") }, align: "left", namelength: -1 },
    ...more, ...axes,
  };
}

// plotly's default bar has a button that uploads a chart: only these buttons are enabled, and no server is set
const CONFIG = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "",
  modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] };

/** Draw or update a plot; `trialOf(point)` is the trial of a point. */
async function draw(id, traces, wanted, trialOf) {
  const where = $(id);
  where.classList.toggle("waiting", !where.classList.contains("js-plotly-plot"));
  const Plotly = await plotly();
  where.classList.remove("waiting");
  const isNew = !where.classList.contains("js-plotly-plot");
  await Plotly.react(where, traces, layout(wanted), CONFIG);
  if (isNew) {
    where.on("plotly_click", (event) => {
      const trial = trialOf(event.points[0]);
      if (trial) mark(trial);
    });
    where.on("plotly_afterplot", () => paint(where));
  }
  paint(where);
}

/** Highlights are classes on drawn elements: no plot is redrawn for them. */
function paint(where) {
  const some = shown().some((trial) => state.marked.has(trial.id));
  where.classList.toggle("some", some);
  for (const trace of where.data || []) {
    const drawn = where.querySelector(trace.type === "bar" ? ".barlayer .trace" : `.trace${trace.uid}`);
    if (!drawn) continue;
    if (trace.meta != null) {
      const marked = state.marked.has(TRIALS[trace.meta].id);
      drawn.classList.toggle("marked", marked);
      drawn.classList.toggle("dim", !marked);
    } else if (trace.places) {
      [...drawn.querySelectorAll(".point")].forEach((point, place) => {
        const marked = state.marked.has(TRIALS[trace.places[place]].id);
        point.classList.toggle("marked", marked);
        point.classList.toggle("dim", !marked);
      });
    }
  }
}

// ---- learning curves

function curveOf(trial, metric) {
  const told = BULK.curves[metric]?.[trial.place];
  return told && { x: BULK.steps[told[0]], y: told[1] };
}

/** The value of a metric at a step, or at the last evaluation before it. */
function valueAt(trial, metric, step) {
  const curve = curveOf(trial, metric);
  if (!curve) return null;
  let found = null;
  curve.x.forEach((one, place) => { if (one <= step && curve.y[place] != null) found = curve.y[place]; });
  return found;
}

function drawCurves(kind) {
  if (kind === "marks") return paint($("curve-plot"));
  const there = shown().filter((trial) => curveOf(trial, state.metric));
  const trials = first("curve", CURVES, there);
  offerMore("curve", CURVES, trials.length, there.length);
  const traces = trials.map((trial) => {
    const curve = curveOf(trial, state.metric);
    return { ...curve, uid: `c${trial.place}`, meta: trial.place, type: "scatter", name: plain(nameOf(trial)),
      mode: curve.x.length < 25 ? "lines+markers" : "lines", line: { color: colourOf(trial), width: 1.8 }, marker: { color: colourOf(trial), size: 5 },
      hovertemplate: `<b>${plain(nameOf(trial))}</b><br>step %{x}: %{y:.5g}<extra></extra>` };
  });
  return draw("curve-plot", traces, {
    height: innerWidth < 600 ? 320 : 420, uirevision: state.metric + state.log,
    xaxis: { title: { text: "step" } }, yaxis: { title: { text: plain(state.metric) }, type: state.log ? "log" : "linear", exponentformat: "power" },
  }, (point) => TRIALS[point.data.meta]);
}

function makeCurves() {
  if (!BULK.metrics.length) return;
  $("curves").hidden = false;
  const groups = { evaluations: [], losses: [], others: [] };
  for (const name of BULK.metrics) (name.startsWith("eval_") ? groups.evaluations : name.includes("loss") ? groups.losses : groups.others).push(name);
  const select = $("curve-metric");
  for (const [title, names] of Object.entries(groups)) {
    if (names.length) select.append(element("optgroup", { label: title }, ...names.map((name) => element("option", { value: name }, name))));
  }
  if (!BULK.metrics.includes(state.metric)) state.metric = BULK.metrics[0];
  select.value = state.metric;
  $("curve-log").checked = state.log;
  select.addEventListener("change", () => { state.metric = select.value; tell("shown", "curve"); });
  $("curve-log").addEventListener("change", (event) => { state.log = event.target.checked; tell("shown", "curve"); });
  addPart("curve", "curves", drawCurves);
}

// ---- the metric against each setting

function drawAgainst(kind) {
  if (kind === "marks") return paint($("settings-plot"));
  const pairs = METRICS.flatMap((metric) => searched().filter((name) => PAGE.groups.some((one) => one.metric === metric && one.searched.includes(name)))
    .map((name) => [metric, name]));
  const wide = $("settings-plot").clientWidth;
  const columns = Math.min(pairs.length, wide < 560 ? 1 : wide < 900 ? 2 : 3);
  const rows = Math.ceil(pairs.length / columns);
  const wanted = { height: rows * 250 + 20, margin: { l: 60, r: 12, t: 10, b: 50 } };
  const gap = { x: METRICS.length > 1 ? 0.1 : 0.07, y: rows > 1 ? 70 / (rows * 250) : 0 };
  const traces = pairs.map(([metric, name], number) => {
    const mark = number ? String(number + 1) : "";
    const [column, row] = [number % columns, Math.floor(number / columns)];
    const size = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
    const left = column * (size.x + gap.x), top = 1 - row * (size.y + gap.y);
    const trials = shown().filter((trial) => valueByName(trial, metric) != null && axisValue(trial, name) != null);
    const before = pairs.findIndex((pair) => pair[0] === metric);
    const axis = AXES.get(name);
    wanted[`xaxis${mark}`] = { domain: [left, left + size.x], anchor: `y${mark}`, title: { text: plain(name), standoff: 4 }, range: [-0.05, 1.05],
      tickvals: axis.ticks.map((tick) => tick.place), ticktext: axis.ticks.map((tick) => plain(tick.text)), zeroline: false };
    wanted[`yaxis${mark}`] = { domain: [Math.max(0, top - size.y), Math.min(1, top)], anchor: `x${mark}`, ...(number > before ? { matches: `y${before ? before + 1 : ""}` } : {}),
      title: column && number > before ? undefined : { text: plain(metric), standoff: 4 } };
    return { uid: `s${number}`, type: "scatter", mode: "markers", xaxis: `x${mark}`, yaxis: `y${mark}`, places: trials.map((trial) => trial.place),
      x: trials.map((trial) => axisValue(trial, name) + (axis.kind === "words" ? ((trial.place * 0.618) % 1 - 0.5) * 0.06 : 0)),
      y: trials.map((trial) => trial.value), customdata: trials.map((trial) => trial.place),
      text: trials.map((trial) => `<b>${plain(nameOf(trial))}</b><br>${plain(name)} ${plain(short(settingOf(trial, name)))}<br>${plain(group(trial).metric)} ${short(trial.value)}`),
      hovertemplate: "%{text}<extra></extra>", marker: { color: trials.map(colourOf), size: 8, opacity: 0.85 } };
  });
  return draw("settings-plot", traces, wanted, (point) => TRIALS[point.customdata]);
}

// ---- which settings matter

async function drawImportance(kind) {
  if (kind !== "shown" && kind !== "colours") return; // it covers all trials, not only those shown
  let number = 0;
  for (const one of PAGE.groups) {
    if (!one.importance) continue;
    const id = `importance-${number++}`;
    if (!$(id)) {
      const title = PAGE.groups.length > 1 ? [element("h3", {}, one.name)] : [];
      const warnings = one.importance.warnings.map((line) => element("p", { class: "notice" }, `Caution: ${line}.`));
      $("importance-plots").append(...title, ...warnings, element("div", { class: "plot", id }));
    }
    const rows = [...one.importance.rows].reverse();
    const tendency = (row) => (row.direction == null || row.share <= row.chance || Math.abs(row.direction) < 0.2 ? ""
      : (row.direction > 0) === (one.mode === "max") ? " · higher is better" : " · lower is better");
    const names = rows.map((row) => plain(row.setting));
    await draw(id, [
      { uid: `i${id}`, type: "bar", orientation: "h", y: names, x: rows.map((row) => row.share), width: 0.55,
        marker: { color: rows.map((row) => (row.share > row.chance ? ink("--blue") : ink("--faint"))) },
        text: rows.map((row) => `${Math.round(row.share * 100)} %${tendency(row)}`), textposition: "outside", cliponaxis: false,
        hovertemplate: "%{y}: %{text}<extra></extra>" },
      { uid: `j${id}`, type: "scatter", mode: "markers", y: names, x: rows.map((row) => row.chance),
        marker: { symbol: "line-ns-open", size: 22, line: { width: 2 }, color: ink("--quiet") }, hovertemplate: "by chance up to %{x:.0%}<extra></extra>" },
    ], { height: 60 + 42 * rows.length, margin: { l: 90, r: 20, t: 6, b: 36 }, barmode: "overlay",
      yaxis: { ticksuffix: "  " }, xaxis: { range: [0, 1.25], tickvals: [0, 0.25, 0.5, 0.75, 1], tickformat: ".0%", title: { text: `share explained, of ${one.importance.trials} trials` } } }, () => null);
  }
}

// ---- timeline and clones

function lanes(trials) {
  return { tickvals: trials.map((_, place) => place), ticktext: trials.map((trial) => plain(nameOf(trial))), autorange: false,
    range: [trials.length - 0.4, -0.6], zeroline: false, showgrid: false };
}

async function drawTimeline(kind) {
  if (kind === "marks") {
    paint($("timeline-plot"));
    return;
  }
  const there = shown().filter((trial) => trial.sessions.length).sort((one, other) => one.sessions[0][0] - other.sessions[0][0]);
  const best = new Set(first("timeline", LANES, shown()));
  const trials = there.filter((trial) => best.has(trial));
  offerMore("timeline", LANES, trials.length, there.length);
  const bars = trials.flatMap((trial, lane) => trial.sessions.map(([from, to]) => ({ trial, lane, from, to: Math.max(to, from + 0.5) })));
  const zone = (seconds) => (seconds - new Date(seconds * 1000).getTimezoneOffset() * 60) * 1000;
  const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });
  await draw("timeline-plot", [{
    uid: "l0", type: "bar", orientation: "h", base: bars.map((bar) => zone(bar.from)), x: bars.map((bar) => (bar.to - bar.from) * 1000), y: bars.map((bar) => bar.lane),
    width: 0.6, places: bars.map((bar) => bar.trial.place), customdata: bars.map((bar) => bar.trial.place),
    marker: { color: bars.map((bar) => colourOf(bar.trial)), pattern: { shape: bars.map((bar) => (["failed", "stopped early", "interrupted", "stopped"].includes(bar.trial.state) ? "/" : "")) } },
    text: bars.map((bar) => `<b>${plain(nameOf(bar.trial))}</b> ${plain(bar.trial.state)}<br>${clock(bar.from)} to ${clock(bar.to)} (${duration(bar.to - bar.from)})<br>${plain(group(bar.trial).metric)} ${short(bar.trial.value)}`),
    textposition: "none", hovertemplate: "%{text}<extra></extra>",
  }], { height: 70 + 24 * Math.max(2, trials.length), barmode: "overlay", margin: { l: 60, r: 12, t: 6, b: 40 }, xaxis: { type: "date" }, yaxis: lanes(trials) },
  (point) => TRIALS[point.customdata]);
  if (TRIALS.some((trial) => trial.clones.length)) await drawTree(trials);
}

/** Lanes of a population over steps: the steps of a trial until it was replaced, and the trial that it was cloned from. */
async function drawTree(trials) {
  const laneOf = new Map(trials.map((trial, lane) => [trial.id, lane]));
  const traces = [], arrows = [], told = [];
  for (const trial of trials) {
    const lane = laneOf.get(trial.id);
    const x = [], y = [];
    let from = 0;
    for (const clone of trial.clones) {
      x.push(from, clone.left, null);
      y.push(lane, lane, null);
      from = clone.step;
      const donor = `${trial.id.slice(0, trial.id.lastIndexOf("/") + 1)}${clone.from}`;
      const other = TRIALS.find((one) => one.id === donor);
      const changed = Object.entries(clone.changed || {}).map(([name, [old, now]]) => `${name} ${short(old)} → ${short(now)}`).join(", ");
      const line = ` took over ${other ? nameOf(other) : clone.from} at step ${clone.step}, left its own at step ${clone.left}${changed ? `; ${changed}` : ""}`;
      told.push([trial, line]);
      if (laneOf.has(donor)) {
        arrows.push({ x: clone.step, y: lane, ax: clone.step, ay: laneOf.get(donor), xref: "x", yref: "y", axref: "x", ayref: "y", text: "", showarrow: true,
          arrowhead: 2, arrowsize: 1.1, arrowwidth: 1.6, arrowcolor: colourOf(other), opacity: 0.9, standoff: 3, startstandoff: 3,
          hovertext: plain(nameOf(trial) + line), captureevents: true });
      }
    }
    x.push(from, trial.step);
    y.push(lane, lane);
    traces.push({ uid: `f${trial.place}`, meta: trial.place, type: "scatter", mode: "lines+markers", x, y, line: { color: colourOf(trial), width: 4 }, marker: { size: 7, color: colourOf(trial) },
      hovertemplate: `<b>${plain(nameOf(trial))}</b><br>step %{x}<extra></extra>` });
  }
  $("tree-list").replaceChildren(element("details", {}, element("summary", {}, `${told.length} clones, as text`),
    element("ul", { class: "plain" }, ...told.map(([trial, line]) => element("li", {}, nameButton(trial), line)))));
  await draw("tree-plot", traces, { height: 80 + 34 * Math.max(2, trials.length), margin: { l: 60, r: 12, t: 6, b: 40 }, annotations: arrows, xaxis: { title: { text: "step" }, zeroline: false }, yaxis: lanes(trials) },
    (point) => TRIALS[point.data.meta]);
}

function updateTimeline(kind) {
  if (kind === "marks" && $("tree-plot").data) paint($("tree-plot"));
  return drawTimeline(kind);
}

function makePlots() {
  makeCurves();
  const names = searched();
  if (names.length && TRIALS.filter((trial) => trial.value != null).length > 1) {
    $("settings-plots").hidden = false;
    addPart("against", "settings-plots", drawAgainst);
  }
  if (PAGE.groups.some((one) => one.importance)) {
    $("importance").hidden = false;
    $("importance-method").textContent = PAGE.method;
    addPart("importance", "importance", drawImportance);
  }
  if (TRIALS.some((trial) => trial.sessions.length)) {
    $("timeline").hidden = false;
    $("family-tree").hidden = !TRIALS.some((trial) => trial.clones.length);
    addPart("timeline", "timeline", updateTimeline);
  }
}
