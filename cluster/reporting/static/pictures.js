// Samples of all trials at the same step, texts, timelapses, and the pictures of evaluations.

const ALIKE = "Every trial draws from the same noise at every step: differences come from training.";
const TILES = 12, PICTURED = 6;
let MOMENTS = []; // every step at which some trial drew its samples
const SAMPLES = new Map(); // the tile of each trial
let playing = null;

/** A picture or text under its trial's name; a click highlights the trial. */
function figureOf(trial, remark, ...children) {
  const some = shown().some((one) => state.marked.has(one.id));
  const marked = state.marked.has(trial.id);
  return element("figure", { class: marked ? "marked" : some ? "dim" : null, "data-place": trial.place, click: () => { if (!String(getSelection())) mark(trial); } },
    element("figcaption", {}, nameButton(trial), remark), ...children);
}

/** The newest step up to `moment` at which a trial drew samples. */
function stepAt(trial, moment) {
  let found = null;
  for (const step of trial.grids) if (step <= moment) found = step;
  return found;
}

const sheet = (step) => `grids/step_${String(step).padStart(8, "0")}.png`;

function textAt(trial, moment) {
  const texts = BULK.texts[trial.place] || {};
  const steps = Object.keys(texts).map(Number).filter((step) => step <= moment);
  return steps.length ? texts[Math.max(...steps)] : "";
}

/** Draw the tiles of all shown trials. */
function drawSamples(kind) {
  const drawing = shown().filter((trial) => trial.grids.length);
  const trials = first("sample", TILES, drawing);
  const where = $("sample-tiles");
  if (kind === "marks" && where.children.length) return paintFigures(where);
  const shared = TRIALS.find((trial) => trial.real && trial.drawn === "png");
  where.classList.toggle("texts", trials.length > 0 && trials.every((trial) => trial.drawn === "txt"));
  where.style.setProperty("--tile", `${state.tile}px`);
  SAMPLES.clear();
  const tiles = trials.map((trial) => {
    const said = element("span", { class: "hint" });
    const content = trial.drawn === "txt" ? element("pre", { tabindex: "0" }) : element("img", { loading: "lazy", decoding: "async" });
    SAMPLES.set(trial, { said, content });
    return figureOf(trial, said, content);
  });
  if (shared) {
    tiles.push(element("figure", { class: "plain" }, element("figcaption", {}, element("b", {}, "real images")),
      element("img", { loading: "lazy", src: pictureOf(shared, "real.png"), alt: "real images of the data" })));
  }
  where.replaceChildren(...tiles);
  offerMore("sample", TILES, trials.length, drawing.length);
  return drawMoment();
}

/** Show one step in every tile. */
function drawMoment() {
  const moment = MOMENTS[Number($("moment").value)];
  state.step = moment;
  $("moment-said").textContent = state.timelapses ? "all steps" : `step ${moment} of ${MOMENTS[MOMENTS.length - 1]}`;
  $("moment").setAttribute("aria-valuetext", `step ${moment}`);
  for (const [trial, { said, content }] of SAMPLES) {
    const step = stepAt(trial, moment);
    const metric = group(trial).metric;
    const value = valueAt(trial, metric, moment);
    said.classList.toggle("other-step", step !== moment);
    said.textContent = step === null ? "not yet" : (step !== moment ? `step ${step} ` : "") + (value == null ? "" : `${metric.replace("eval_", "")} ${short(value, 3)}`);
    if (content.tagName === "PRE") content.textContent = textAt(trial, moment);
    else if (state.timelapses && trial.timelapse) showIn(content, pictureOf(trial, "timelapse.gif"), `timelapse of ${nameOf(trial)}`);
    else showIn(content, step === null ? "data:," : pictureOf(trial, sheet(step)), step === null ? "" : `samples of ${nameOf(trial)} at step ${step}`);
  }
}

function showIn(image, source, alt) {
  if (image.getAttribute("src") !== source) image.src = source;
  image.alt = alt;
}

/** Preload the grids of the next step, so that playing does not flicker. */
function prepareNext() {
  const moment = MOMENTS[(Number($("moment").value) + 1) % MOMENTS.length];
  for (const [trial, { content }] of SAMPLES) {
    const step = stepAt(trial, moment);
    if (step !== null && content.tagName === "IMG") new Image().src = pictureOf(trial, sheet(step));
  }
}

function play(whether) {
  clearInterval(playing);
  playing = null;
  $("play").textContent = whether ? "pause" : "play";
  $("play").setAttribute("aria-pressed", String(whether));
  if (!whether) return;
  const slider = $("moment");
  if (Number(slider.value) === MOMENTS.length - 1) { slider.value = 0; drawMoment(); }
  prepareNext();
  playing = setInterval(() => {
    if (Number(slider.value) >= MOMENTS.length - 1) { play(false); keep(); return; }
    slider.value = Number(slider.value) + 1;
    drawMoment();
    prepareNext();
  }, Math.max(180, Math.min(700, 9000 / MOMENTS.length)));
}

function paintFigures(where) {
  const some = shown().some((one) => state.marked.has(one.id));
  for (const figure of where.querySelectorAll("figure[data-place]")) {
    const marked = state.marked.has(TRIALS[figure.dataset.place].id);
    figure.classList.toggle("marked", marked);
    figure.classList.toggle("dim", some && !marked);
    figure.querySelector(".trial-name").setAttribute("aria-pressed", String(marked));
  }
}

function drawPictures(kind) {
  const where = $("picture-tiles");
  if (kind === "marks" && where.children.length) return paintFigures(where);
  const there = shown().filter((trial) => trial.pictures.includes(state.picture));
  const trials = first("picture", PICTURED, there);
  where.replaceChildren(...trials.map((trial) => figureOf(trial, null, element("img", { loading: "lazy", src: pictureOf(trial, `${state.picture}.png`), alt: `${state.picture} of ${nameOf(trial)}` }))));
  return offerMore("picture", PICTURED, trials.length, there.length);
}

function makePictures() {
  MOMENTS = [...new Set(TRIALS.flatMap((trial) => trial.grids))].sort((one, other) => one - other);
  if (MOMENTS.length) {
    $("samples").hidden = false;
    const hints = [TRIALS.length === 1 ? "Every step draws from the same noise: differences come from training." : ALIKE];
    if (PAGE.noise.length) hints.push(`The noise differs between trials that differ in ${PAGE.noise.join(", ")}.`);
    if (TRIALS.length > 1) hints.push("If a trial has no samples of the step, its last earlier ones are shown, with their step.");
    $("samples-hint").textContent = hints.join(" ");
    const slider = $("moment");
    slider.max = MOMENTS.length - 1;
    const wanted = state.step == null ? -1 : MOMENTS.findLastIndex((step) => step <= state.step);
    slider.value = wanted < 0 ? MOMENTS.length - 1 : wanted;
    slider.addEventListener("input", () => { play(false); drawMoment(); });
    slider.addEventListener("change", keep);
    $("play").addEventListener("click", () => play(playing === null));
    $("tile-size").value = state.tile;
    $("tile-size").addEventListener("change", (event) => { state.tile = event.target.value; tell("shown", "samples"); });
    $("timelapse-switch").hidden = !TRIALS.some((trial) => trial.timelapse);
    $("timelapses").checked = state.timelapses;
    $("timelapses").addEventListener("change", (event) => { state.timelapses = event.target.checked; play(false); drawMoment(); keep(); });
    addPart("samples", "samples", drawSamples);
  }
  const names = [...new Set(TRIALS.flatMap((trial) => trial.pictures))].filter((name) => !["verdict", "copies"].includes(name)
    || !TRIALS.some((trial) => Object.keys(trial.verdict).length));
  if (names.length) {
    $("pictures-of").hidden = false;
    $("picture-which").append(...names.map((name) => element("option", { value: name }, name)));
    if (!names.includes(state.picture)) state.picture = names[0];
    $("picture-which").value = state.picture;
    $("picture-which").addEventListener("change", (event) => { state.picture = event.target.value; tell("shown", "picture"); });
    addPart("picture", "pictures-of", drawPictures);
  }
}
