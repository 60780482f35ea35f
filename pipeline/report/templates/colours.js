/*
 * Colours for the values of maps. Equal steps of a value are equal steps of lightness in OKLab (Björn Ottosson, "A
 * perceptual color space for image processing", 2020, bottosson.github.io/posts/oklab), so no value seems to stand out by
 * its colour alone.
 */

const colours = (() => {
  /** OKLCH (lightness 0 … 1, chroma, hue in degrees) as linear RGB. */
  const linear = (lightness, chroma, hue) => {
    const a = chroma * Math.cos((hue * Math.PI) / 180);
    const b = chroma * Math.sin((hue * Math.PI) / 180);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    return [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
  };

  /** The sRGB bytes of a colour in OKLCH, with as much of its chroma as a screen can show. */
  const bytes = (lightness, chroma, hue) => {
    let rgb = linear(lightness, chroma, hue);
    for (let left = chroma; left > 0 && rgb.some((each) => each < 0 || each > 1); left -= 0.004) {
      rgb = linear(lightness, left, hue);
    }
    return rgb.map((value) => {
      const clipped = Math.min(1, Math.max(0, value));
      return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
    });
  };

  const table = (colourAt) => Array.from({ length: 256 }, (_, code) => colourAt(code / 255));

  return {
    /** From nothing to much: dark violet, magenta, orange, light yellow. 256 colours as [r, g, b]. */
    sequential: table((t) => bytes(0.14 + 0.82 * t, 0.04 + 0.17 * Math.sin(Math.PI * Math.min(1, 0.12 + 0.8 * t)), 290 + 175 * t)),

    /** From negative (blue) over nothing (light grey) to positive (red). 256 colours as [r, g, b]. */
    diverging: table((t) => {
      const size = Math.abs(2 * t - 1);
      return bytes(0.95 - 0.5 * size, 0.19 * size ** 0.8, t < 0.5 ? 255 : 32);
    }),
  };
})();
