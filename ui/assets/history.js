// The takes of this visit. They live in the browser, so nothing is kept elsewhere.
// Gradio runs this file as a function of (element, trigger, props, server, upload, watch).

const MAX_TAKES = 12;
const MAX_BYTES = 96 << 20;

const root = element.querySelector(".history");
const list = root.querySelector("ol");
const hearButtons = Object.fromEntries(["a", "b"].map((side) => [side, root.querySelector(`[data-hear=${side}]`)]));

let takes = []; // newest first
const marked = { a: null, b: null };

function add(take) {
  if (takes.includes(take)) return;
  takes.unshift(take);
  let bytes = 0;
  takes = takes.filter((one, place) => place === 0 || (place < MAX_TAKES && (bytes += one.bytes) <= MAX_BYTES));
  forgetMarks();
  draw();
}

function forgetMarks() {
  for (const side of ["a", "b"]) if (!takes.includes(marked[side])) marked[side] = null;
}

function made(kind, className, text = "", attributes = {}) {
  const node = document.createElement(kind);
  node.className = className;
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function onClick(node, act) {
  node.type = "button";
  node.addEventListener("click", act);
  return node;
}

function mark(side, take) {
  const other = side === "a" ? "b" : "a";
  marked[side] = marked[side] === take ? null : take;
  if (marked[other] === marked[side]) marked[other] = null;
  draw();
}

// To the same moment of the other take, so that the ear compares the same words.
function hear(side) {
  const current = window.player.current();
  const isOther = current === marked.a || current === marked.b;
  const seconds = isOther && window.player.isPlaying() ? window.player.position() : 0;
  window.player.load(marked[side], seconds, true);
}

function row(take, number) {
  const { facts } = take;
  const item = made("li", "take");
  const words = made("div", "take-words");
  words.append(
    made("p", "take-text", facts.text),
    made("p", "take-facts", [facts.voice, (take.samples / take.rate).toFixed(1) + " s", facts.figures, "seed " + facts.seed].filter(Boolean).join(" · ")),
  );
  const play = onClick(made("button", "take-play", "▶", { "aria-label": `Play take ${number}` }), () => window.player.load(take, 0, true));
  const sides = ["a", "b"].map((side) => {
    const node = made("button", "take-mark", side.toUpperCase(), {
      "aria-label": `Mark take ${number} as ${side.toUpperCase()}`, "aria-pressed": String(marked[side] === take),
    });
    return onClick(node, () => mark(side, take));
  });
  const download = made("a", "take-download", facts.format, { href: facts.file, download: facts.name, "aria-label": `Download take ${number} as ${facts.format}` });
  const forget = onClick(made("button", "take-forget", "×", { "aria-label": `Remove take ${number}` }), () => {
    takes = takes.filter((one) => one !== take);
    forgetMarks();
    draw();
  });
  const tools = made("div", "take-tools");
  tools.append(...sides, download, forget);
  item.append(play, words, tools);
  item.dataset.take = take.id;
  return item;
}

function draw() {
  root.hidden = takes.length === 0;
  list.replaceChildren(...takes.map((take, place) => row(take, takes.length - place)));
  for (const side of ["a", "b"]) hearButtons[side].disabled = !marked[side];
  showCurrent();
}

function showCurrent() {
  const id = window.player?.current()?.id;
  for (const item of list.children) item.classList.toggle("is-current", item.dataset.take === id);
  for (const side of ["a", "b"]) hearButtons[side].setAttribute("aria-pressed", String(Boolean(id) && marked[side]?.id === id));
}

for (const side of ["a", "b"]) hearButtons[side].addEventListener("click", () => hear(side));
document.addEventListener("take-done", (event) => add(event.detail));
document.addEventListener("player-shows", showCurrent);
