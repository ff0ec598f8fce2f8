// The page asks, the server answers; nothing is kept there. An image is its PNG
// file in base64, and what the user has set stays in this tab's storage.

import { CropBox } from "/crop.js";

const $ = (selector, root = document) => root.querySelector(selector);
const SLOTS = ["a", "b"];

let model; // what the server says of it
let drawn = []; // the pictures of the grid
let state;

// Talking to the server

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: {
      "Content-Type": body instanceof Blob
        ? "application/octet-stream"
        : "application/json",
    },
    body: body instanceof Blob ? body : JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("No answer: is keras-glow demo still running?");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

// A slider asks faster than the model answers: one question at a time, and of
// those that come meanwhile the last alone.
function latest(place, work) {
  let running = false;
  let again = false;
  return async () => {
    again = true;
    if (running) return;
    running = true;
    place.setAttribute("aria-busy", "true");
    while (again) {
      again = false;
      try {
        const start = performance.now();
        const line = await work();
        if (line) {
          const seconds = (performance.now() - start) / 1000;
          say(`${line}, after ${seconds.toFixed(1)} s`);
        }
      } catch (error) {
        say("", error.message);
      }
    }
    place.removeAttribute("aria-busy");
    running = false;
  };
}

function say(line, error = "") {
  $("#status").textContent = line;
  $("#error").textContent = error;
}

// What the user has set

function startingState() {
  return {
    seed: 1,
    temperature: model.latents.map(() => 0.7),
    slot: "a",
    label: null, // the class to draw; null for each in its turn
    images: { a: null, b: null },
    labels: { a: firstLabel(), b: firstLabel(), result: null },
    share: 0,
    spherical: false,
    strengths: Object.fromEntries(model.attributes.map((name) => [name, 0])),
  };
}

const firstLabel = () => (model.classes.length ? 0 : null);
const storageKey = () =>
  `${model.name} ${model.image_shape} ${model.latents} ${model.classes}`;
const save = () => sessionStorage.setItem(storageKey(), JSON.stringify(state));

function restore() {
  state = startingState();
  try {
    const saved = JSON.parse(sessionStorage.getItem(storageKey()));
    const { strengths = {}, ...rest } = saved ?? {};
    Object.assign(state, rest);
    for (const name of model.attributes) {
      state.strengths[name] = strengths[name] ?? 0;
    }
  } catch {
    // What cannot be read is as good as nothing.
  }
}

// Showing

function show(image, picture) {
  image.src = `data:image/png;base64,${picture.png}`;
}

function bits(picture) {
  return picture.bits_per_dim === null
    ? "bits/dim not finite"
    : `${picture.bits_per_dim.toFixed(2)} bits/dim`;
}

const count = (number) => number.toLocaleString("en");

// In how many values a picture differs, from another one if that is named.
function differences(number, other) {
  const all = count(model.dimensions);
  if (number) return `${count(number)} of ${all} values differ${other ? ` from ${other}` : ""}`;
  return other ? `Equals ${other} in every pixel` : "exact, every pixel";
}

function slider(label, { min = 0, max, step, value, set, digits = 2 }) {
  const input = Object.assign(document.createElement("input"), {
    type: "range", id: label.replaceAll(/\W+/g, "-"), min, max, step, value,
  });
  const name = Object.assign(document.createElement("label"), {
    htmlFor: input.id, textContent: label,
  });
  const output = document.createElement("output");
  output.htmlFor = input.id;
  const print = () => { output.textContent = input.valueAsNumber.toFixed(digits); };
  print();
  input.addEventListener("input", () => { print(); set(input.valueAsNumber); });
  const box = document.createElement("div");
  box.className = "slider";
  box.append(name, output, input);
  if (min < 0) { // a mark where it changes nothing
    const marks = document.createElement("datalist");
    marks.id = `${input.id}-marks`;
    marks.append(new Option("", 0));
    input.setAttribute("list", marks.id);
    box.append(marks);
  }
  // Moved by the page, it looks and answers as if moved by hand.
  box.move = (number) => { input.value = number; print(); set(input.valueAsNumber); };
  return box;
}

// Draw

const draw = latest($(".stage"), async () => {
  const { seed, temperature, label } = state;
  drawn = (await ask("/api/draw", { seed, temperature, label })).pictures;
  $("#samples").replaceChildren(...drawn.map((picture, i) => {
    const image = document.createElement("img");
    image.alt = `Image ${i + 1}`;
    show(image, picture);
    const button = document.createElement("button");
    button.type = "button";
    button.append(image, bits(picture));
    button.addEventListener("click", () => put(state.slot, picture));
    return button;
  }));
  mark();
  if (!state.images.a) put("a", drawn[0]);
  if (!state.images.b) put("b", drawn[1]);
  return `${drawn.length} images of seed ${seed}`;
});

// Says on the drawn images which of them are A and B.
function mark() {
  drawn.forEach((picture, i) => {
    const button = $("#samples").children[i];
    const slots = SLOTS.filter((slot) => state.images[slot] === picture.png);
    if (slots.length) button.dataset.slots = slots.join(" ").toUpperCase();
    else delete button.dataset.slots;
  });
}

function setUpDrawing() {
  const seed = $("#seed");
  seed.value = state.seed;
  const changed = () => {
    if (!seed.checkValidity()) {
      say("", "The seed is expected to be an integer 0..4294967295");
      return;
    }
    state.seed = seed.valueAsNumber;
    save();
    draw();
  };
  seed.addEventListener("input", changed);
  $("#new-seed").addEventListener("click", () => {
    seed.value = Math.floor(Math.random() * 10000);
    changed();
  });
  const levels = model.latents.length;
  const sliders = state.temperature.map((value, i) => {
    const place = { 0: ", finest", [levels - 1]: ", coarsest" }[i] ?? "";
    return slider(`Level ${i + 1}${levels > 1 ? place : ""}`, {
      max: model.max_temperature, step: 0.05, value,
      set: (number) => { state.temperature[i] = number; save(); draw(); },
    });
  });
  const all = slider("All levels", {
    max: model.max_temperature, step: 0.05, value: state.temperature[0],
    set: (number) => sliders.forEach((one) => one.move(number)),
  });
  $("#temperatures").append(...(levels > 1 ? [all] : []), ...sliders);
  for (const radio of document.querySelectorAll("[name=slot]")) {
    radio.checked = radio.value === state.slot;
    radio.addEventListener("change", () => { state.slot = radio.value; save(); });
  }
  classChooser("#class", state.label, (label) => {
    state.label = label;
    save();
    draw();
  });
}

// A list of the classes, hidden for a model without any. Its first entry may
// have no class.
function classChooser(selector, label, set) {
  const select = $(selector);
  select.append(...model.classes.map((name, i) => new Option(name, i)));
  select.value = label ?? "";
  select.addEventListener("change", () => {
    set(select.value === "" ? null : Number(select.value));
  });
  select.closest("label").hidden = !model.classes.length;
}

// Images A and B

// What to look at next, for each slot: a file, its name if it has one, and the
// square to take of it.
const wanted = {};
const cropBox = Object.fromEntries(SLOTS.map((slot) => [
  slot,
  new CropBox($(`#crop-${slot}`), (crop) => {
    wanted[slot] = { ...wanted[slot], crop };
    look[slot]();
  }),
]));

const look = Object.fromEntries(SLOTS.map((slot) => [
  slot,
  latest($(`#${slot}`), async () => {
    const { file, name, crop = null } = wanted[slot];
    const label = state.labels[slot];
    const question = encodeURIComponent(JSON.stringify({ crop, label }));
    let seen;
    try {
      seen = await ask(`/api/look?${question}`, file);
    } catch (error) {
      throw name ? new Error(`${name} ${error.message}`) : error;
    }
    const figure = $(`#${slot}`);
    show($(".picture", figure), seen.picture);
    show($(".decoded img", figure), seen.decoded);
    $(".bits", figure).textContent = bits(seen.picture);
    $(".exact", figure).textContent = differences(seen.differing);
    $(".notes", figure).textContent =
      seen.notes.map((note) => `The image ${note}.`).join(" ");
    if (seen.whole && name) cropBox[slot].open(seen.whole, model.image_shape[0]);
    else if (!crop) cropBox[slot].close();
    state.images[slot] = seen.picture.png;
    save();
    mark();
    if (state.images.a && state.images.b) edit();
    return `Image ${slot.toUpperCase()}: ${bits(seen.picture)}`;
  }),
]));

function put(slot, { png, label }) {
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  wanted[slot] = { file: new Blob([bytes]) };
  state.labels[slot] = label;
  $(`#class-${slot}`).value = label ?? "";
  $(`#${slot} input`).value = ""; // a file is no longer what is shown
  look[slot]();
}

function setUpImages() {
  for (const slot of SLOTS) {
    $(`#${slot} input`).addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (!file) return;
      if (file.size > model.max_body) {
        const limit = `${model.max_body / 1e6} MB`;
        say("", `A file is expected to have at most ${limit}`);
        return;
      }
      wanted[slot] = { file, name: file.name };
      look[slot]();
    });
    classChooser(`#class-${slot}`, state.labels[slot], (label) => {
      state.labels[slot] = label;
      save();
      look[slot]();
    });
    const png = state.images[slot];
    if (png) put(slot, { png, label: state.labels[slot] });
  }
}

// Blend and edit

const edit = latest($("#result"), async () => {
  const { images, share, spherical, strengths } = state;
  const { a, b, result } = state.labels;
  const labels = a === null ? null : [a, b, result ?? (share > 0.5 ? b : a)];
  const { picture, enlarged, differing } = await ask(
    "/api/edit", { ...images, labels, share, spherical, strengths },
  );
  const figure = $("#result");
  show($(".picture", figure), picture);
  $(".bits", figure).textContent = bits(picture);
  figure.querySelectorAll("p").forEach((line, i) => {
    line.textContent = differences(differing[i], SLOTS[i].toUpperCase());
  });
  $("#save").href = `data:image/png;base64,${enlarged}`;
  $("#save-exact").href = $(".picture", figure).src;
  return `Result: ${bits(picture)}`;
});

function setUpEditing() {
  const change = (update) => { update(); save(); edit(); };
  const share = $("#share");
  const print = () => {
    const percent = Math.round(100 * share.valueAsNumber);
    share.previousElementSibling.textContent = `${percent} % B`;
  };
  share.value = state.share;
  print();
  share.addEventListener("input", () => {
    print();
    change(() => { state.share = share.valueAsNumber; });
  });
  const spherical = $("#spherical");
  spherical.checked = state.spherical;
  spherical.addEventListener("change", () => {
    change(() => { state.spherical = spherical.checked; });
  });
  classChooser("#class-result", state.labels.result, (label) => {
    change(() => { state.labels.result = label; });
  });
  const limit = model.max_strength;
  const sliders = model.attributes.map((name) => slider(
    name.replaceAll("_", " "), {
      min: -limit, max: limit, step: 0.1, digits: 1,
      value: state.strengths[name],
      set: (number) => change(() => { state.strengths[name] = number; }),
    },
  ));
  $("#attributes").append(...sliders);
  const none = sliders.length === 0;
  $("#no-attributes").hidden = !none;
  $("#attributes-hint").hidden = $("#reset").hidden = none;
  $("#reset").addEventListener("click", () => sliders.forEach((one) => one.move(0)));
}

async function start() {
  model = await ask("/api/model");
  const [height, width] = model.image_shape;
  $("#about").textContent =
    `Model ${model.name}: ${width}×${height} pixels, ` +
    `${count(model.dimensions)} latents in ${model.latents.length} levels, ` +
    `${count(model.parameters)} parameters. It runs on this computer, and ` +
    "no picture leaves it.";
  restore();
  setUpDrawing();
  setUpEditing();
  setUpImages();
  draw();
}

start().catch((error) => say("", error.message));
