// Parallel coordinates, drawn as SVG: an axis for each searched setting, and the metric; a line for each trial.

const AXES = new Map(); // by name: {kind, place(value), ticks: [{place, text}]}, places from 0 to 1

/** Make the axes of the settings and the metric from all trials. */
function makeAxes() {
  for (const name of [...searched(), ...METRICS]) {
    const values = TRIALS.map((trial) => valueByName(trial, name)).filter((value) => value != null);
    const numbers = values.filter((value) => typeof value === "number");
    const different = [...new Set(values.map(show))];
    if (numbers.length < values.length || (different.length < 6 && !METRICS.includes(name) && !PAGE.groups.some((one) => String((one.space || {})[name] || "").includes("..")))) {
      different.sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
      if (numbers.length === values.length) different.sort((one, other) => Number(one) - Number(other));
      const place = (value) => (different.length === 1 ? 0.5 : different.indexOf(show(value)) / (different.length - 1));
      const every = Math.ceil(different.length / 12);
      AXES.set(name, { kind: "words", place, ticks: different.filter((_, number) => number % every === 0).map((text) => ({ place: place(text), text: text.length > 18 ? `${text.slice(0, 17)}…` : text })) });
      continue;
    }
    const [low, high] = [Math.min(...numbers), Math.max(...numbers)];
    const asked = PAGE.groups.map((one) => String((one.space || {})[name] || "")).find((word) => word.includes(".."));
    const log = low > 0 && (asked ? asked.startsWith("log:") : high / low > 100);
    const scale = log ? Math.log10 : (value) => value;
    const [from, to] = [scale(low), scale(high)];
    const place = (value) => (to > from ? (scale(value) - from) / (to - from) : 0.5);
    AXES.set(name, { kind: log ? "log" : "linear", place, ticks: ticksOf(low, high, log).map((value) => ({ place: place(value), text: short(value, 3) })) });
  }
}

/** Round numbers within a range. */
function ticksOf(low, high, log) {
  const found = [];
  if (log) {
    const decades = Math.log10(high / low);
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
      for (const digit of decades > 3 ? [1] : decades > 1.2 ? [1, 3] : [1, 2, 3, 5, 7]) found.push(Number(`${digit}e${power}`));
    }
  } else if (high > low) {
    const rough = (high - low) / 5;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((digit) => digit * size).find((one) => one >= rough);
    for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  }
  const inside = found.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
  return inside.length > 1 || low === high ? (inside.length ? inside : [low]) : [low, high];
}

/** The position of a trial on an axis, from 0 to 1; null if it has no value. */
function axisValue(trial, name) {
  const axis = AXES.get(name);
  const value = valueByName(trial, name);
  if (!axis || value == null || (axis.kind === "log" && value <= 0)) return null;
  return axis.place(value);
}

/** A selected range, in the values of the axis. */
function rangeText(name) {
  const values = TRIALS.filter((trial) => { const place = axisValue(trial, name); return place >= state.ranges[name][0] && place <= state.ranges[name][1]; })
    .map((trial) => valueByName(trial, name));
  if (!values.length) return "none";
  if (typeof values[0] !== "number") return [...new Set(values.map(show))].join(", ");
  return `${short(Math.min(...values), 3)} to ${short(Math.max(...values), 3)}`;
}

const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) if (value != null) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const PARALLEL = { height: 330, top: 34, bottom: 24, side: 60, letter: 7.2, gap: 14 };

function drawParallel(kind) {
  const where = $("parallel-plot");
  if (kind === "marks") return paintParallel(where);
  const names = [...AXES.keys()];
  const titles = names.map((name) => Math.min(22, name.length) * PARALLEL.letter);
  const side = Math.max(PARALLEL.side, titles[0] / 2, titles.at(-1) / 2);
  const least = Math.max(100, ...names.slice(1).map((_, number) => (titles[number] + titles[number + 1]) / 2 + PARALLEL.gap));
  const width = Math.max(where.clientWidth - 2, 2 * side + (names.length - 1) * least);
  const [top, bottom] = [PARALLEL.top, PARALLEL.height - PARALLEL.bottom];
  const x = (number) => side + (number * (width - 2 * side)) / Math.max(1, names.length - 1);
  const y = (place) => bottom - place * (bottom - top);
  const lines = [...shown()].reverse().map((trial) => {
    let begun = false;
    const steps = names.map((name, number) => {
      const place = axisValue(trial, name);
      if (place == null) { begun = false; return ""; }
      const step = `${begun ? "L" : "M"}${x(number).toFixed(1)},${y(place).toFixed(1)}`;
      begun = true;
      return step;
    });
    return svg("path", { d: steps.join("") || "M0,0", stroke: colourOf(trial), "data-place": trial.place });
  });
  const axes = names.map((name, number) => axisOf(name, x(number), y, top, bottom, number === names.length - 1));
  const drawing = svg("svg", { class: "lines", width, height: PARALLEL.height, role: "img",
    "aria-label": `parallel coordinates of ${lines.length} trials over ${names.join(", ")}; the leaderboard has the same numbers` }, svg("g", {}, ...lines), ...axes);
  const under = (event) => { const place = event.target.getAttribute && event.target.getAttribute("data-place"); return place == null ? null : TRIALS[place]; };
  drawing.addEventListener("click", (event) => { const trial = under(event); if (trial) mark(trial); });
  drawing.addEventListener("pointerover", (event) => {
    const trial = under(event);
    drawing.querySelector("path.hover")?.classList.remove("hover");
    if (!trial) return;
    event.target.classList.add("hover");
    $("parallel-readout").textContent = `${nameOf(trial)}: ` + names.map((name) => `${name} ${short(valueByName(trial, name))}`).join(", ");
  });
  where.replaceChildren(drawing);
  return paintParallel(where);
}

function axisOf(name, x, y, top, bottom, isLast) {
  const axis = AXES.get(name);
  const range = state.ranges[name];
  const grip = svg("rect", { class: "grip", x: x - 16, y: top - 6, width: 32, height: bottom - top + 12 });
  const chosen = svg("rect", { class: "range", x: x - 7, width: 14, y: range ? y(range[1]) : 0, height: range ? Math.max(2, y(range[0]) - y(range[1])) : 0, visibility: range ? "visible" : "hidden" });
  let from = null;
  const place = (event) => Math.min(1.02, Math.max(-0.02, (bottom - (event.clientY - grip.ownerSVGElement.getBoundingClientRect().top)) / (bottom - top)));
  grip.addEventListener("pointerdown", (event) => { from = place(event); grip.setPointerCapture(event.pointerId); event.preventDefault(); });
  grip.addEventListener("pointermove", (event) => {
    if (from == null) return;
    const [low, high] = [from, place(event)].sort((one, other) => one - other);
    chosen.setAttribute("y", y(high));
    chosen.setAttribute("height", Math.max(2, y(low) - y(high)));
    chosen.setAttribute("visibility", "visible");
  });
  grip.addEventListener("pointerup", (event) => {
    if (from == null) return;
    const ends = [from, place(event)].sort((one, other) => one - other);
    from = null;
    if (ends[1] - ends[0] < 0.02) delete state.ranges[name];
    else state.ranges[name] = ends;
    tell("shown");
  });
  const ticks = axis.ticks.map((tick) => svg("text", { x: isLast ? x + 6 : x - 6, y: y(tick.place) + 4, "text-anchor": isLast ? "start" : "end" }, tick.text));
  return svg("g", { class: "axis" }, svg("line", { x1: x, x2: x, y1: top, y2: bottom }), grip, chosen, ...ticks,
    svg("text", { class: "title", x, y: 16, "text-anchor": "middle" }, name.length > 22 ? `${name.slice(0, 21)}…` : name));
}

function paintParallel(where) {
  const some = shown().some((trial) => state.marked.has(trial.id));
  where.firstChild?.classList.toggle("some", some);
  for (const path of where.querySelectorAll("path")) path.classList.toggle("marked", state.marked.has(TRIALS[path.getAttribute("data-place")].id));
}

function makeParallel() {
  makeAxes();
  if (AXES.size < 2 || TRIALS.length < 2) return;
  $("parallel").hidden = false;
  addPart("parallel", "parallel", drawParallel);
  let width = $("parallel-plot").clientWidth;
  new ResizeObserver(() => {
    const now = $("parallel-plot").clientWidth;
    if (now && now !== width) {
      width = now;
      tell("shown", "parallel");
    }
  }).observe($("parallel-plot"));
}
