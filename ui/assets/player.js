// The player. It pulls 16-bit samples from the page's server while a take is made and plays them at
// once through Web Audio; when the take is whole it becomes an ordinary audio element to seek in.
// Gradio runs this file as a function of (element, trigger, props, server, upload, watch).

const root = element.querySelector(".player");
const [button, wave, spectrogram, head, seek, hint, clock, sound] =
  ["play", "wave", "spectrogram", "head", "seek", "hint", "clock", "sound"].map((name) => root.querySelector(".player-" + name));

const MAX_KNOWN = 16; // takes whose end is waited for
const LEAD_S = 0.1; // time between scheduling a piece and hearing it, when nothing is playing
const FIRST_CUSHION_S = 1; // after a stall, wait for this much sound; doubled at every further stall
const MAX_CUSHION_S = 8;

let take = null; // the take in the player
const known = new Map(); // the latest takes by id, also those that are not in the player
let context = null; // Web Audio, kept from take to take

function openContext(rate) {
  // A context of the take's own rate: pieces resampled one by one would click where they meet.
  if (context && context.sampleRate !== rate) {
    context.close();
    context = null;
  }
  if (!context) context = new AudioContext({ sampleRate: rate });
  context.resume();
}

const told = () => JSON.parse(props.value);

// Browsers let a page sound only after a gesture, so the context is opened in the click itself.
window.openPlayer = () => openContext(take?.rate || told().rate || 44100);

function newTake(id, rate) {
  return {
    id, rate, parts: [], bytes: 0, samples: 0, picture: new soundPictures.Sound(rate), isWhole: false, facts: null,
    pending: [], scheduled: [], nextAt: 0, cushion: 0, isStalled: true, mode: "live", isPaused: false,
  };
}

function leave() {
  if (!take) return;
  silence();
  sound.pause();
  if (sound.src) URL.revokeObjectURL(sound.src);
  sound.removeAttribute("src");
  take = null;
}

function remember(mine) {
  known.set(mine.id, mine);
  if (known.size > MAX_KNOWN) known.delete(known.keys().next().value);
}

async function begin(id, rate) {
  leave();
  const mine = newTake(id, rate);
  remember(mine);
  take = mine;
  openContext(rate);
  show();
  while (!mine.isWhole) {
    let answer;
    try {
      answer = await server.pull([id, mine.bytes]);
    } catch (error) {
      console.error("the player lost its connection", error);
      answer = { pcm: "", isLast: true };
    }
    if (answer.pcm) receive(mine, samplesOf(answer.pcm));
    if (answer.isLast) finish(mine);
  }
}

function samplesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Int16Array(bytes.buffer);
}

function receive(mine, samples) {
  mine.parts.push(samples);
  mine.bytes += samples.length * 2;
  mine.samples += samples.length;
  mine.picture.add(samples);
  if (mine !== take) return;
  mine.pending.push(samples);
  schedule(mine);
  show();
}

function schedule(mine) {
  if (mine.mode !== "live") return;
  const waiting = mine.pending.reduce((sum, part) => sum + part.length, 0) / mine.rate;
  if (!mine.isStalled && mine.nextAt < context.currentTime) {
    mine.isStalled = true;
    mine.cushion = Math.min(MAX_CUSHION_S, mine.cushion ? mine.cushion * 2 : FIRST_CUSHION_S);
  }
  if (mine.isStalled && waiting < mine.cushion && !mine.isWhole) return;
  for (const part of mine.pending.splice(0)) play(mine, part);
}

function play(mine, part) {
  const buffer = context.createBuffer(1, part.length, mine.rate);
  buffer.copyToChannel(Float32Array.from(part, (sample) => sample / 32768), 0);
  const node = context.createBufferSource();
  node.buffer = buffer;
  node.connect(context.destination);
  const from = mine.scheduled.length ? mine.scheduled.at(-1).to : 0;
  const at = mine.isStalled ? context.currentTime + LEAD_S : mine.nextAt;
  node.start(at);
  mine.isStalled = false;
  mine.nextAt = at + buffer.duration;
  mine.scheduled.push({ at, from, to: from + buffer.duration, node });
  if (mine.scheduled.length === 1) root.dataset.firstSound = String(performance.now());
}

function finish(mine) {
  mine.isWhole = true;
  mine.picture.end();
  announce(mine);
  if (mine !== take) return;
  if (mine.samples) {
    schedule(mine);
    sound.src = URL.createObjectURL(wavOf(mine));
  }
  show();
}

// Tell the list of takes, once both the sound and what is known of it have come.
function announce(mine) {
  if (mine.isWhole && mine.facts && mine.samples)
    document.dispatchEvent(new CustomEvent("take-done", { detail: mine }));
}

// Put a whole take into the player.
function load(mine, seconds, isToPlay) {
  leave();
  take = mine;
  Object.assign(mine, { mode: "file", scheduled: [], pending: [] });
  sound.src = URL.createObjectURL(wavOf(mine));
  sound.currentTime = Math.min(seconds, duration());
  if (isToPlay) sound.play();
  show();
  keepDrawing();
}

window.player = {
  load, toggle,
  current: () => take,
  position: () => position(),
  isPlaying: () => isPlaying(),
};

function wavOf(mine) {
  const header = new DataView(new ArrayBuffer(44));
  const word = (at, text) => [...text].forEach((c, i) => header.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"); header.setUint32(4, 36 + mine.bytes, true); word(8, "WAVEfmt ");
  header.setUint32(16, 16, true); header.setUint16(20, 1, true); header.setUint16(22, 1, true);
  header.setUint32(24, mine.rate, true); header.setUint32(28, mine.rate * 2, true);
  header.setUint16(32, 2, true); header.setUint16(34, 16, true);
  word(36, "data"); header.setUint32(40, mine.bytes, true);
  return new Blob([header, ...mine.parts], { type: "audio/wav" });
}

function silence() {
  for (const piece of take.scheduled) piece.node.stop();
  take.pending = [];
}

function position() {
  if (!take) return 0;
  if (take.mode === "file") return sound.currentTime;
  const now = context ? context.currentTime : 0;
  const piece = take.scheduled.findLast((one) => one.at <= now);
  return piece ? Math.min(piece.from + now - piece.at, piece.to) : 0;
}

const duration = () => (take ? take.samples / take.rate : 0);

function isPlaying() {
  if (!take) return false;
  if (take.mode === "file") return !sound.paused;
  return !take.isPaused && context?.state === "running" && take.samples > 0;
}

function useFile(seconds) {
  if (take.mode === "live") {
    silence();
    context.resume();
    take.mode = "file";
  }
  sound.currentTime = seconds;
}

function toggle() {
  if (!take?.samples) return;
  if (take.mode === "live") {
    take.isPaused = isPlaying();
    if (take.isPaused) context.suspend();
    else context.resume();
  } else if (sound.paused) sound.play();
  else sound.pause();
  show();
}

const minutes = (s) => Math.floor(s / 60) + ":" + String(Math.floor(s % 60)).padStart(2, "0");

function show() {
  const state = told().state;
  const at = position();
  const whole = duration();
  if (take?.mode === "live" && take.isWhole && whole && at >= whole - 0.001) useFile(0);
  const waiting = (!take && state === "waiting") || (take && !take.samples && !take.isWhole);
  root.dataset.state = waiting ? "waiting" : !take?.samples ? "empty" : isPlaying() ? "playing" : "paused";
  root.dataset.live = String(Boolean(take && !take.isWhole));
  root.dataset.heard = at.toFixed(2);
  button.disabled = !take?.samples;
  button.setAttribute("aria-label", isPlaying() ? "Pause" : "Play");
  seek.disabled = !take?.isWhole || !take?.samples;
  seek.max = String(whole || 1);
  if (!seek.matches(":active")) seek.value = String(at);
  seek.setAttribute("aria-valuetext", at.toFixed(1) + " of " + whole.toFixed(1) + " seconds");
  clock.textContent = minutes(at) + " / " + minutes(whole);
  hint.textContent = waiting ? "Preparing the first sound …" : "Your speech appears here.";
  draw(at, whole);
  document.dispatchEvent(new CustomEvent("player-shows"));
}

function draw(at, whole) {
  const picture = take?.samples ? take.picture : null;
  const shown = !take || take.isWhole ? whole || 1 : Math.max(whole * 1.15, 3);
  soundPictures.drawWave(wave, picture, shown, at);
  soundPictures.drawSpectrogram(spectrogram, picture, shown);
  head.style.left = (100 * at) / shown + "%";
}

let frame = 0;
function tick() {
  frame = 0;
  if (!element.isConnected) return;
  show();
  keepDrawing();
}
function keepDrawing() {
  if (!frame && take && (isPlaying() || !take.isWhole)) frame = requestAnimationFrame(tick);
}

button.addEventListener("click", () => { toggle(); keepDrawing(); });
seek.addEventListener("input", () => {
  if (!take?.isWhole) return;
  const keepOn = isPlaying();
  useFile(Number(seek.value));
  if (keepOn) sound.play();
  show();
});
for (const name of ["play", "pause", "ended", "timeupdate", "loadedmetadata"])
  sound.addEventListener(name, () => { show(); keepDrawing(); });
new ResizeObserver(show).observe(wave);
new MutationObserver(show).observe(document.body, { attributeFilter: ["class"] });

watch("value", () => {
  const { state, take: id, rate, ...facts } = told();
  if (state === "waiting") leave();
  else if (id && !known.has(id)) begin(id, rate).then(show);
  if (state === "done") {
    const mine = known.get(id);
    mine.facts = facts;
    announce(mine);
  }
  show();
  keepDrawing();
});
setInterval(keepDrawing, 200); // a frame loop that ended while samples were late starts again
show();
