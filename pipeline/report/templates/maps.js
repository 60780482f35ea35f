/* Decodes maps, draws them over their images, and explains their colours. */

/** A map from the data: its values row by row, and their range. A map with negative values is signed. */
function decodeMap([data, scale, offset, height, width]) {
  const codes = atob(data);
  const values = new Float32Array(codes.length);
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < codes.length; i++) {
    const value = codes.charCodeAt(i) * scale + offset;
    values[i] = value;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  // A hair below zero is what rounding leaves of nothing.
  return { values, height, width, low, high, signed: low < -1e-6 * Math.abs(high) };
}

/** The values at both ends of a map's colours: from 0 up, or as far below zero as above. */
function rangeOf(map) {
  if (!map.signed) return [Math.min(0, map.low), map.high];
  const size = Math.max(-map.low, map.high);
  return [-size, size];
}

const pixelTables = new Map();

/** The 256 colours of a kind of map as pixels of an image: a class draws a quarter of a million of them. */
function pixelTable(signed, over) {
  const key = `${signed} ${over}`;
  if (!pixelTables.has(key)) {
    const bytes = (signed ? colours.diverging : colours.sequential).flatMap((colour, code) => {
      const size = signed ? Math.abs(code - 127.5) / 127.5 : code / 255;
      return [...colour, over ? 255 * Math.min(1, 0.2 + 1.2 * size) : 255];
    });
    pixelTables.set(key, new Uint32Array(new Uint8Array(bytes).buffer));
  }
  return pixelTables.get(key);
}

/**
 * A canvas with one pixel for each cell of a map. Styles make it as large as its box. Over an image, small values are
 * more transparent than large ones, so that the image can be recognised.
 */
function mapCanvas(map, over = false) {
  const canvas = el("canvas", { class: over ? "map over" : "map", "aria-hidden": "true" });
  if (over) canvas.style.opacity = display.opacity;
  canvas.width = map.width;
  canvas.height = map.height;
  const [low, high] = rangeOf(map);
  const step = 255 / (high - low || 1);
  const table = pixelTable(map.signed, over);
  const image = new ImageData(map.width, map.height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    pixels[i] = table[Math.min(255, Math.max(0, Math.round((map.values[i] - low) * step)))];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

/** A canvas with one example's image, pixel for pixel; null if there is none. */
function imageCanvas(loaded, place) {
  return spriteCanvas(loaded.data.sprite, loaded.sprite, place);
}

/** A canvas with one image of a sprite, pixel for pixel; `layout` says where it is. Null if there is none. */
function spriteCanvas(layout, sprite, place) {
  const size = layout?.sizes[place];
  if (!size) return null;
  const { columns, cell } = layout;
  const [width, height] = size;
  const canvas = el("canvas", { class: Math.max(width, height) < 96 ? "photo hard" : "photo", "aria-hidden": "true" });
  canvas.width = width;
  canvas.height = height;
  const left = (place % columns) * cell[0];
  const top = Math.floor(place / columns) * cell[1];
  canvas.getContext("2d").drawImage(sprite, left, top, width, height, 0, 0, width, height);
  return canvas;
}

/** A box with layers over each other, the lowest first; `alt` says what is seen. */
function picture(alt, layers, ratio = 1) {
  const shown = layers.filter((layer) => layer !== null);
  return el("span", { class: "picture", role: "img", "aria-label": alt, style: `aspect-ratio: ${ratio}` }, shown);
}

/** Width over height of an example's image; 1 without an image. */
function ratioOf(loaded, place) {
  const size = loaded.data.sprite?.sizes[place];
  return size ? size[0] / size[1] : 1;
}

/** A strip of a map's colours with the values at its ends. */
function legend(map, write = number) {
  const [low, high] = rangeOf(map);
  const strip = el("canvas", { "aria-hidden": "true" });
  strip.width = 256;
  strip.height = 1;
  const pixels = new ImageData(256, 1);
  (map.signed ? colours.diverging : colours.sequential).forEach((colour, i) => pixels.data.set([...colour, 255], 4 * i));
  strip.getContext("2d").putImageData(pixels, 0, 0);
  return el("div", { class: "legend" }, el("span", {}, write(low)), strip, el("span", {}, write(high)));
}

/* How maps are shown: the same everywhere, until the page is closed. */

const display = { mode: "overlay", opacity: 0.7, smooth: false };

/** The layers of an example in a mode: `image`, `map` or `overlay`. Without an image, each shows the map. */
function exampleLayers(loaded, place, mode = display.mode) {
  const example = loaded.data.examples[place];
  const image = imageCanvas(loaded, place);
  if (mode === "image" && image) return [image];
  if (!example.map) return [image];
  const map = (example.decoded ??= decodeMap(example.map));
  return image && mode === "overlay" ? [image, mapCanvas(map, true)] : [mapCanvas(map)];
}

/** Applies opacity and smoothness to everything in an element. */
function applyDisplay(element) {
  element.classList.toggle("hard", !display.smooth);
  for (const canvas of element.querySelectorAll("canvas.over")) canvas.style.opacity = display.opacity;
}

/** Switches for how maps are shown. `onmode` redraws; null leaves the choice between image, map and overlay out. */
function displayControls(target, onmode) {
  const radio = (mode, label) =>
    el(
      "label",
      {},
      el("input", {
        type: "radio",
        name: "mode",
        value: mode,
        checked: display.mode === mode,
        onchange: () => {
          display.mode = mode;
          onmode();
          applyDisplay(target);
        },
      }),
      label,
    );
  const slider = el("input", {
    type: "range",
    min: 0,
    max: 100,
    value: Math.round(100 * display.opacity),
    oninput: (event) => {
      display.opacity = event.target.value / 100;
      applyDisplay(target);
    },
  });
  const smooth = el("input", {
    type: "checkbox",
    checked: display.smooth,
    onchange: (event) => {
      display.smooth = event.target.checked;
      applyDisplay(target);
    },
  });
  const modes = el(
    "fieldset",
    {},
    el("legend", { class: "hidden" }, "Show"),
    radio("image", "Image"),
    radio("map", "Map"),
    radio("overlay", "Overlay"),
  );
  return el(
    "div",
    { class: "controls" },
    onmode && modes,
    el("label", { class: "slider" }, "Opacity of the map", slider),
    el("label", { class: "check" }, smooth, "Smooth"),
  );
}
