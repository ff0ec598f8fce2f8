// The page asks, the server answers; nothing is kept there. A face is its PNG
// file in base64, and what the user has set stays in this tab's storage.

const $ = (selector, root = document) => root.querySelector(selector);
const SLOTS = ["a", "b"];

let model; // what the server says of it
let drawn = []; // the faces of the grid
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
    faces: { a: null, b: null },
    share: 0,
    spherical: false,
    strengths: Object.fromEntries(model.attributes.map((name) => [name, 0])),
  };
}

const storageKey = () => `${model.name} ${model.image_shape} ${model.latents}`;
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
  // Moved by the page, it looks and answers as if moved by hand.
  box.move = (number) => { input.value = number; print(); set(input.valueAsNumber); };
  return box;
}

// Draw

const draw = latest($(".stage"), async () => {
  const { seed, temperature } = state;
  drawn = (await ask("/api/draw", { seed, temperature })).pictures;
  $("#samples").replaceChildren(...drawn.map((picture, i) => {
    const image = document.createElement("img");
    image.alt = `Face ${i + 1}`;
    show(image, picture);
    const button = document.createElement("button");
    button.type = "button";
    button.append(image, bits(picture));
    button.addEventListener("click", () => put(state.slot, picture.png));
    return button;
  }));
  mark();
  if (!state.faces.a) put("a", drawn[0].png);
  if (!state.faces.b) put("b", drawn[1].png);
  return `${drawn.length} faces of seed ${seed}`;
});

// Says on the drawn faces which of them are A and B.
function mark() {
  drawn.forEach((picture, i) => {
    const button = $("#samples").children[i];
    const slots = SLOTS.filter((slot) => state.faces[slot] === picture.png);
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
}

// Faces A and B

const wanted = {}; // the file to look at next, for each slot

const look = Object.fromEntries(SLOTS.map((slot) => [
  slot,
  latest($(`#${slot}`), async () => {
    const seen = await ask("/api/look", wanted[slot]);
    const figure = $(`#${slot}`);
    show($(".picture", figure), seen.picture);
    show($(".decoded img", figure), seen.decoded);
    $(".bits", figure).textContent = bits(seen.picture);
    $(".exact", figure).textContent = differences(seen.differing);
    state.faces[slot] = seen.picture.png;
    save();
    mark();
    if (state.faces.a && state.faces.b) edit();
    const notes = seen.notes.map((note) => `; the image ${note}`);
    return `Face ${slot.toUpperCase()}: ${bits(seen.picture)}${notes.join("")}`;
  }),
]));

function put(slot, png) {
  const bytes = Uint8Array.from(atob(png), (c) => c.charCodeAt(0));
  wanted[slot] = new Blob([bytes]);
  $(`#${slot} input`).value = ""; // a file is no longer what is shown
  look[slot]();
}

function setUpFaces() {
  for (const slot of SLOTS) {
    $(`#${slot} input`).addEventListener("change", (event) => {
      const [file] = event.target.files;
      if (!file) return;
      if (file.size > model.max_body) {
        const limit = `${model.max_body / 1e6} MB`;
        say("", `A file is expected to have at most ${limit}`);
        return;
      }
      wanted[slot] = file;
      look[slot]();
    });
    if (state.faces[slot]) put(slot, state.faces[slot]);
  }
}

// Blend and edit

const edit = latest($("#result"), async () => {
  const { faces, share, spherical, strengths } = state;
  const { picture, differing } = await ask(
    "/api/edit", { ...faces, share, spherical, strengths },
  );
  const figure = $("#result");
  show($(".picture", figure), picture);
  $(".bits", figure).textContent = bits(picture);
  figure.querySelectorAll("p").forEach((line, i) => {
    line.textContent = differences(differing[i], SLOTS[i].toUpperCase());
  });
  $("#save").href = $(".picture", figure).src;
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
  setUpFaces();
  draw();
}

start().catch((error) => say("", error.message));
