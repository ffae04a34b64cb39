// The toolbox: names, colours, highlights and hidden trials, for all parts of the page.

const ROWS = new Map(); // of the list, by trial

function makeToolbox() {
  const list = $("trial-list");
  for (const trial of ORDERED) list.append(rowOf(trial));
  const filter = $("filter");
  filter.value = state.filter;
  filter.addEventListener("input", () => { state.filter = filter.value; tell("shown"); });
  $("unmark").addEventListener("click", () => { state.marked.clear(); tell("shown"); });
  $("only-marked").addEventListener("click", () => {
    for (const trial of TRIALS) if (!state.marked.has(trial.id)) state.hidden.add(trial.id);
    tell("shown");
  });
  $("show-all").addEventListener("click", () => {
    state.hidden.clear();
    state.ranges = {};
    state.filter = filter.value = "";
    tell("shown");
  });
  $("forget-names").addEventListener("click", () => { state.names = {}; state.colours = {}; tell("names"); tell("colours"); });
  const open = (whether) => {
    $("toolbox").classList.toggle("open", whether);
    $("open-toolbox").setAttribute("aria-expanded", String(whether));
    (whether ? $("filter") : $("open-toolbox")).focus();
  };
  $("open-toolbox").addEventListener("click", () => open(!$("toolbox").classList.contains("open")));
  $("close-toolbox").addEventListener("click", () => open(false));
  document.addEventListener("keydown", (event) => {
    const writing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "range";
    if (event.key === "/" && !writing) {
      event.preventDefault();
      if (getComputedStyle($("open-toolbox")).display !== "none") open(true);
      filter.focus();
    } else if (event.key === "Escape" && $("toolbox").classList.contains("open")) open(false);
  });
}

function rowOf(trial) {
  const colour = element("input", {
    type: "color", value: colourOf(trial), "aria-label": `colour of ${nameOf(trial)}`,
    change: () => { state.colours[trial.id] = colour.value; tell("colours"); },
  });
  const name = element("button", { type: "button", class: "name", click: () => mark(trial) });
  const there = element("input", {
    type: "checkbox", title: "shown",
    change: () => { if (there.checked) state.hidden.delete(trial.id); else state.hidden.add(trial.id); tell("shown"); },
  });
  const rename = element("button", { type: "button", class: "small", title: "rename", click: () => askName(trial) }, "✎");
  const row = element("li", {}, there, colour, name, element("span", { class: "value" }, short(trial.value)), rename);
  ROWS.set(trial, { row, colour, name, there, rename });
  return row;
}

/** An input in place of the name, until Enter or a click elsewhere; Escape cancels. */
function askName(trial) {
  const { name, rename } = ROWS.get(trial);
  const input = element("input", { type: "text", class: "name-input", value: nameOf(trial), maxlength: 80, "aria-label": `name of ${trial.id}` });
  let left = false;
  const end = (taken) => {
    if (left) return;
    left = true;
    input.replaceWith(name);
    if (taken && input.value.trim() && input.value.trim() !== nameOf(trial)) state.names[trial.id] = input.value.trim();
    else if (taken && !input.value.trim()) delete state.names[trial.id];
    tell("names");
    rename.focus();
  };
  input.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(true);
    if (event.key === "Escape") { event.stopPropagation(); end(false); }
  });
  input.addEventListener("blur", () => end(true));
  name.replaceWith(input);
  input.focus();
  input.select();
}

/** Updates the list to what is shown, highlighted and named. */
function listTrials() {
  const there = new Set(shown());
  const fit = fits(state.filter);
  for (const trial of TRIALS) {
    const { row, colour, name, there: box, rename } = ROWS.get(trial);
    const marked = state.marked.has(trial.id);
    const off = state.hidden.has(trial.id);
    const told = nameOf(trial);
    row.hidden = !there.has(trial) && !(off && fit(trial));
    row.classList.toggle("marked", marked);
    row.classList.toggle("off", off);
    box.checked = !off;
    if (name.textContent !== told) {
      name.textContent = told;
      name.title = told === trial.id ? "highlight" : `${trial.id}: highlight`;
      box.setAttribute("aria-label", `show ${told}`);
      rename.setAttribute("aria-label", `rename ${told}`);
      colour.setAttribute("aria-label", `colour of ${told}`);
    }
    name.setAttribute("aria-pressed", String(marked));
    const wanted = colourOf(trial);
    if (colour.value !== wanted) colour.value = wanted;
  }
  const marked = TRIALS.filter((trial) => state.marked.has(trial.id)).length;
  $("counts").textContent = `${there.size} of ${TRIALS.length} shown` + (marked ? `, ${marked} highlighted` : "");
  $("only-marked").disabled = !marked;
  $("unmark").disabled = !marked;
  $("open-toolbox").textContent = there.size < TRIALS.length ? `trials ${there.size}/${TRIALS.length}` : "trials";
  $("ranges").replaceChildren(...Object.keys(state.ranges).map((axis) => element("button", {
    type: "button", title: "remove this range",
    click: () => { delete state.ranges[axis]; tell("shown"); },
  }, `${axis} ${rangeText(axis)} ×`)));
}

/** A trial's name with its colour, as a button that highlights it. */
function nameButton(trial) {
  const swatch = element("span", { class: "swatch" });
  swatch.style.background = colourOf(trial);
  return element("button", {
    type: "button", class: "trial-name", title: trial.id, "aria-pressed": String(state.marked.has(trial.id)),
    click: (event) => { event.stopPropagation(); mark(trial); },
  }, swatch, element("span", {}, nameOf(trial)));
}
