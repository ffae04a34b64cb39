"use strict";
// Shared by all parts: the data, what is shown, highlighted and named, and how parts are notified of a change.
// User texts go into the page as text (textContent), never as HTML.

const $ = (id) => document.getElementById(id);
const PAGE = JSON.parse($("page").textContent);
const EMBEDDED = JSON.parse($("pictures").textContent);
const NONCE = document.currentScript.nonce;
const KEPT = "troupe " + PAGE.title; // storage key of names and colours in the browser
let TRIALS = []; // by place: the index used by curves, texts and pictures
let ORDERED = []; // the same, the best first
let BULK = {};

const LIGHT = ["#2b6cb0", "#dd6b20", "#2f855a", "#805ad5", "#c53030", "#2c7a7b", "#b83280", "#b7791f", "#4c51bf", "#744210"];
const DARK = ["#63b3ed", "#f6ad55", "#68d391", "#b794f4", "#fc8181", "#4fd1c5", "#f687b3", "#f6e05e", "#7f9cf5", "#d6bc8a"];

const state = {
  hidden: new Set(), marked: new Set(), names: {}, colours: {}, filter: "", ranges: {}, sort: "rank", down: false,
  metric: "", log: false, step: null, more: {}, all: false, which: "final", picture: "", tile: "200", timelapses: false,
};

// ---- texts and numbers

/** An element with attributes, listeners (functions) and children (elements or texts). */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

/** A number with its significant digits. */
function short(value, digits = 4) {
  if (value == null) return "–";
  if (typeof value !== "number") return show(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 1).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(digits)));
}

/** A setting as typed in a command. */
function show(value) {
  if (value == null) return "none";
  if (Array.isArray(value)) return value.map(show).join(":");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return whole + "s";
  if (whole < 3600) return Math.floor(whole / 60) + "m" + String(whole % 60).padStart(2, "0") + "s";
  return Math.floor(whole / 3600) + "h" + String(Math.floor((whole % 3600) / 60)).padStart(2, "0") + "m";
}

/** Text for plotly, which interprets some HTML. */
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// ---- trials

const group = (trial) => PAGE.groups[trial.group];
const nameOf = (trial) => state.names[trial.id] || (PAGE.groups.length === 1 && trial.id.startsWith(group(trial).name + "/")
  ? trial.id.slice(group(trial).name.length + 1) : trial.id);
const sign = (trial) => (group(trial).mode === "max" ? 1 : -1);
const isDark = () => document.documentElement.dataset.theme === "dark";

/** A trial's colour: chosen by the user, or that of its rank; those after the first ten are grey until highlighted. */
function colourOf(trial) {
  if (state.colours[trial.id]) return state.colours[trial.id];
  const colours = isDark() ? DARK : LIGHT;
  if (trial.order < colours.length) return colours[trial.order];
  const place = [...state.marked].indexOf(trial.id);
  return place < 0 ? (isDark() ? "#718096" : "#a0aec0") : colours[place % colours.length];
}

/** A setting of a trial: searched, differing, or common to all. */
function settingOf(trial, name) {
  if (name in trial.settings) return trial.settings[name];
  if (name in trial.other) return trial.other[name];
  return PAGE.common[name];
}

/** The searched settings of all groups. */
const searched = () => [...new Set(PAGE.groups.flatMap((one) => one.searched))];
/** The metrics by which trials are compared, of all groups. */
const METRICS = [...new Set(PAGE.groups.map((one) => one.metric).filter(Boolean))];

// ---- what is shown

const COMPARISONS = {
  ">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b,
  "=": (a, b) => String(a) === String(b) || Number(a) === Number(b), "!=": (a, b) => String(a) !== String(b),
};

function valueByName(trial, name) {
  if (name === "value" || name === group(trial).metric) return trial.value;
  if (METRICS.includes(name)) return null;
  if (["rank", "best", "step", "steps", "seconds", "state", "best_step"].includes(name)) return trial[name];
  return settingOf(trial, name);
}

/** A function that tests whether a trial matches every word of the filter. */
function fits(filter) {
  const tests = filter.trim().toLowerCase().split(/\s+/).filter(Boolean).map((word) => {
    const match = /^([\w.]+)(>=|<=|!=|>|<|=)(.+)$/.exec(word);
    if (!match) return (trial) => trial.words.includes(word) || nameOf(trial).toLowerCase().includes(word);
    const [, name, sign, told] = match;
    const compare = COMPARISONS[sign];
    const number = Number(told);
    return (trial) => {
      const value = valueByName(trial, name);
      if (value == null && sign !== "!=") return told === "none" && sign === "=";
      return sign.includes("=") && sign.length < 3 && !/[<>]/.test(sign)
        ? compare(show(value).toLowerCase(), told) : typeof value === "number" && compare(value, number);
    };
  });
  return (trial) => tests.every((test) => test(trial));
}

let shownNow = null;
/** Trials that are neither hidden nor filtered out, the best first. */
function shown() {
  if (!shownNow) {
    const fit = fits(state.filter);
    const ranges = Object.entries(state.ranges);
    shownNow = ORDERED.filter((trial) => !state.hidden.has(trial.id) && fit(trial) && ranges.every(([name, [low, high]]) => {
      const place = axisValue(trial, name);
      return place != null && place >= low && place <= high;
    }));
  }
  return shownNow;
}

/** The first of these for one part of the page, and all highlighted ones. */
function first(part, standard, candidates = shown()) {
  const most = state.more[part] || standard;
  return candidates.filter((trial, place) => place < most || state.marked.has(trial.id));
}

/** Shows how many of how many trials are drawn, with buttons for more. */
function offerMore(part, standard, count, total) {
  const place = $(part + "-more");
  place.replaceChildren();
  if (total <= standard) return;
  const set = (number) => () => { state.more[part] = number; tell("shown", part); };
  place.append(element("span", {}, `${count} of ${total} trials: the best and the highlighted ones`));
  if (count < total) {
    const most = state.more[part] || standard;
    place.append(element("button", { type: "button", click: set(most + standard) }, `${standard} more`));
    place.append(element("button", { type: "button", click: set(Infinity) }, "all"));
  }
  if ((state.more[part] || 0) > standard) place.append(element("button", { type: "button", click: set(standard) }, "fewer"));
}

// ---- notifying parts of a change

const PARTS = []; // {name, section, update(kind)}: kind is "shown", "marks", "names" or "colours"
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const part = PARTS.find((one) => one.section === entry.target);
    part.near = entry.isIntersecting;
    if (part.near && part.stale) refresh(part, part.stale);
  }
}, { rootMargin: "150px" });
const DRAWING = new Set(); // what is being drawn now

/** A part of the page; it is drawn when it comes into view, and redrawn when it changes while in view. */
function addPart(name, section, update) {
  const part = { name, section: $(section), update, near: false, stale: "shown" };
  PARTS.push(part);
  seen.observe(part.section);
}

function refresh(part, kind) {
  part.stale = null;
  const drawn = Promise.resolve().then(() => part.update(kind)).catch(trouble).finally(() => {
    DRAWING.delete(drawn);
    part.section.style.minHeight = "";
  });
  DRAWING.add(drawn);
}

/** Something has changed: parts in view are redrawn now, one after the other; the others when they come into view. */
function tell(kind, only = null) {
  if (kind === "shown") shownNow = null;
  listTrials(kind);
  for (const part of PARTS) {
    if (only && part.name !== only) continue;
    if (part.near) refresh(part, kind);
    else part.stale = part.stale && part.stale !== kind ? "shown" : kind;
  }
  keep();
}

function mark(trial) {
  const count = state.marked.size;
  if (!state.marked.delete(trial.id)) state.marked.add(trial.id);
  const outside = trial.order >= 10 || count >= 10; // it may be drawn only because it is highlighted, and its colour changes
  tell(outside ? "shown" : "marks");
}

function trouble(error) {
  $("trouble").hidden = false;
  $("trouble").textContent = `A part of this page could not be drawn: ${error && error.message ? error.message : error}`;
  console.error(error);
}

// ---- what the browser remembers

function keep() {
  try {
    localStorage.setItem(KEPT, JSON.stringify({ names: state.names, colours: state.colours }));
    if (!PAGE.renew) return;
    const session = { ...state, hidden: [...state.hidden], marked: [...state.marked], scroll: scrollY,
      heights: Object.fromEntries(PARTS.map((part) => [part.section.id, part.section.offsetHeight])),
      more: Object.fromEntries(Object.entries(state.more).map(([part, count]) => [part, Math.min(count, 1e6)])) };
    sessionStorage.setItem(KEPT, JSON.stringify(session));
  } catch { /* no storage: the page works without */ }
}

function remember() {
  try {
    const { scroll, heights, ...told } = JSON.parse((PAGE.renew && sessionStorage.getItem(KEPT)) || "{}");
    Object.assign(state, told, { hidden: new Set(told.hidden), marked: new Set(told.marked) });
    Object.assign(state, JSON.parse(localStorage.getItem(KEPT) || "{}"));
    return { scroll, heights };
  } catch { return {}; }
}

// ---- compressed blocks of the page

const LETTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";

/** The text in a compressed block: `length:base 85`. */
async function unpack(id) {
  const text = $(id).textContent;
  const colon = text.indexOf(":");
  const places = new Uint8Array(128);
  for (let place = 0; place < 85; place++) places[LETTERS.charCodeAt(place)] = place;
  const bytes = new DataView(new ArrayBuffer(((text.length - colon - 1) / 5) * 4));
  for (let from = colon + 1, to = 0; to < bytes.byteLength; from += 5, to += 4) {
    let word = 0;
    for (let place = 0; place < 5; place++) word = word * 85 + places[text.charCodeAt(from + place)];
    bytes.setUint32(to, word);
  }
  const packed = bytes.buffer.slice(0, Number(text.slice(0, colon)));
  return new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

let plotlyLoading = null;
/** plotly.js, from its block in this page. */
function plotly() {
  plotlyLoading ??= unpack("plotly").then((code) => {
    const script = element("script", { nonce: NONCE });
    script.textContent = code;
    document.head.append(script);
    $("plotly").textContent = "";
    return window.Plotly;
  });
  return plotlyLoading;
}

/** The address of a trial's picture. */
function pictureOf(trial, name) {
  if (EMBEDDED.places) return EMBEDDED.contents[EMBEDDED.places[`${trial.place}/${name}`]];
  return `${PAGE.bases[trial.place]}/${name}`;
}
