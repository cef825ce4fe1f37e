// Pictures of sound, drawn from its samples: a waveform of bars, and a spectrogram.
// Loaded with the page, before the player.

window.soundPictures = (() => {
  const BAR_PX = 5; // a bar of the waveform and its gap
  const STEP_S = 0.01; // one peak of the waveform and one column of the spectrogram stand for this
  const ROWS = 96; // of the spectrogram, evenly spaced for the ear (mel)
  const LOWEST_HZ = 60;
  const HIGHEST_HZ = 10000;
  const QUIETEST_DB = -62; // below the loudest; drawn as background
  const FLOOR_DB = -120;

  const mel = (hz) => 1127 * Math.log(1 + hz / 700);
  const hzOf = (m) => 700 * (Math.exp(m / 1127) - 1);

  // Collects what both pictures need while samples come.
  class Sound {
    constructor(rate) {
      this.rate = rate;
      this.step = Math.round(rate * STEP_S);
      this.size = rate >= 32000 ? 1024 : 512; // samples that one column looks at
      this.window = Float64Array.from({ length: this.size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / this.size));
      this.peaks = [];
      this.columns = []; // Float32Array(ROWS) in dB
      this.loudestDb = FLOOR_DB;
      this.rest = new Float64Array(0);
      this.edges = this.rowEdges();
    }

    rowEdges() {
      const top = mel(Math.min(HIGHEST_HZ, this.rate / 2));
      const bottom = mel(LOWEST_HZ);
      const bin = (row) => (hzOf(bottom + ((top - bottom) * row) / ROWS) * this.size) / this.rate;
      return Array.from({ length: ROWS + 1 }, (_, row) => bin(row));
    }

    add(samples) {
      const all = new Float64Array(this.rest.length + samples.length);
      all.set(this.rest);
      for (let i = 0; i < samples.length; i++) all[this.rest.length + i] = samples[i] / 32768;
      let at = 0;
      for (; at + this.size <= all.length; at += this.step) this.column(all.subarray(at, at + this.size));
      this.rest = all.slice(at);
    }

    end() {
      // What is left is shorter than a look: look at it with silence behind it.
      for (let at = 0; at < this.rest.length; at += this.step) {
        const last = new Float64Array(this.size);
        last.set(this.rest.subarray(at, at + this.size));
        this.column(last);
      }
      this.rest = new Float64Array(0);
    }

    column(samples) {
      let peak = 0;
      for (let i = 0; i < this.step; i++) peak = Math.max(peak, Math.abs(samples[i]));
      this.peaks.push(peak);
      const power = spectrum(samples, this.window);
      const rows = new Float32Array(ROWS);
      for (let row = 0; row < ROWS; row++) {
        const from = Math.floor(this.edges[row]);
        const to = Math.max(from + 1, Math.ceil(this.edges[row + 1]));
        let most = 0;
        for (let bin = from; bin < to; bin++) most = Math.max(most, power[bin]);
        rows[row] = most > 1e-12 ? 10 * Math.log10(most) : FLOOR_DB;
        this.loudestDb = Math.max(this.loudestDb, rows[row]);
      }
      this.columns.push(rows);
    }
  }

  const twiddles = new Map();

  function twiddle(size) {
    if (!twiddles.has(size)) {
      const cos = new Float64Array(size / 2).map((_, i) => Math.cos((2 * Math.PI * i) / size));
      const sin = new Float64Array(size / 2).map((_, i) => -Math.sin((2 * Math.PI * i) / size));
      twiddles.set(size, [cos, sin]);
    }
    return twiddles.get(size);
  }

  // Power of each frequency: an in-place radix-2 Fourier transform.
  function spectrum(samples, window) {
    const size = samples.length;
    const [cos, sin] = twiddle(size);
    const re = new Float64Array(size);
    const im = new Float64Array(size);
    const bits = Math.log2(size);
    for (let i = 0; i < size; i++) {
      let turned = 0;
      for (let bit = 0; bit < bits; bit++) turned |= ((i >> bit) & 1) << (bits - 1 - bit);
      re[turned] = samples[i] * window[i];
    }
    for (let half = 1; half < size; half *= 2) {
      const stride = size / (2 * half);
      for (let start = 0; start < size; start += 2 * half) {
        for (let k = 0; k < half; k++) {
          const a = start + k;
          const b = a + half;
          const [c, s] = [cos[k * stride], sin[k * stride]];
          const [x, y] = [re[b] * c - im[b] * s, re[b] * s + im[b] * c];
          re[b] = re[a] - x;
          im[b] = im[a] - y;
          re[a] += x;
          im[a] += y;
        }
      }
    }
    const power = new Float64Array(size / 2 + 1);
    for (let bin = 0; bin <= size / 2; bin++) power[bin] = (re[bin] ** 2 + im[bin] ** 2) / size;
    return power;
  }

  function prepared(canvas) {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !height) return null;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    return { pen, width, height };
  }

  // Args: what was collected, seconds across the canvas, seconds that were heard.
  function drawWave(canvas, sound, shown, at) {
    const paper = prepared(canvas);
    if (!paper || !sound) return;
    const { pen, width, height } = paper;
    const style = getComputedStyle(canvas);
    const [done, ahead] = [style.getPropertyValue("--wave-heard"), style.getPropertyValue("--wave-ahead")];
    const bars = Math.floor(width / BAR_PX);
    const perBar = shown / STEP_S / bars;
    const peaks = sound.peaks;
    const loudest = Math.max(0.25, peaks.reduce((a, b) => Math.max(a, b), 0));
    for (let i = 0; i < bars; i++) {
      const from = Math.floor(i * perBar);
      if (from >= peaks.length) break;
      let peak = 0;
      for (let j = from; j < Math.min(peaks.length, Math.max(from + 1, (i + 1) * perBar)); j++) peak = Math.max(peak, peaks[j]);
      const tall = Math.max(2, Math.round((peak / loudest) * (height - 4)));
      pen.fillStyle = (i / bars) * shown <= at ? done : ahead;
      pen.beginPath();
      pen.roundRect(i * BAR_PX, Math.round((height - tall) / 2), BAR_PX - 2, tall, 1.5);
      pen.fill();
    }
  }

  const numbers = (color) => color.trim().split(/\s+/).map(Number);

  function palette(style) {
    const stops = ["low", "mid", "high"].map((name) => numbers(style.getPropertyValue("--spectrum-" + name)));
    return (share) => {
      const [from, to] = share < 0.6 ? [stops[0], stops[1]] : [stops[1], stops[2]];
      const way = share < 0.6 ? share / 0.6 : (share - 0.6) / 0.4;
      return from.map((value, i) => value + (to[i] - value) * way);
    };
  }

  function drawSpectrogram(canvas, sound, shown) {
    const style = getComputedStyle(canvas);
    const key = [sound?.columns.length, shown, canvas.clientWidth, style.getPropertyValue("--spectrum-low")].join();
    if (canvas.dataset.drawn === key && canvas.drawnSound === sound) return;
    const paper = prepared(canvas);
    if (!paper) return;
    canvas.dataset.drawn = key;
    canvas.drawnSound = sound;
    if (!sound?.columns.length) return;
    const width = canvas.width;
    const image = new ImageData(width, ROWS);
    const colors = palette(style);
    for (let x = 0; x < width; x++) {
      const column = sound.columns[Math.floor(((x / width) * shown) / STEP_S)];
      if (!column) break;
      for (let row = 0; row < ROWS; row++) {
        const share = Math.min(1, Math.max(0, 1 - (column[row] - sound.loudestDb) / QUIETEST_DB));
        const [r, g, b] = colors(share);
        image.data.set([r, g, b, 255], ((ROWS - 1 - row) * width + x) * 4);
      }
    }
    const sheet = new OffscreenCanvas(width, ROWS);
    sheet.getContext("2d").putImageData(image, 0, 0);
    paper.pen.drawImage(sheet, 0, 0, paper.width, paper.height);
  }

  return { Sound, drawWave, drawSpectrogram };
})();
