/* Makes elements and writes numbers. Texts from the data go in as text alone, never as markup. */

const SVG = "http://www.w3.org/2000/svg";

/** Sets attributes and adds children: elements, or texts. A property that is null or false is left out. */
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

function el(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

const DASH = "–";

/** A whole number with separators: 10,000. */
function whole(value) {
  return value === null ? DASH : value.toLocaleString("en-US");
}

/** A number with three significant digits, or all digits before the point. */
function number(value) {
  if (value === null || value === undefined) return DASH;
  const size = Math.abs(value);
  if (size >= 1000 && size < 1e6) return Math.round(value).toLocaleString("en-US").replace("-", "−");
  const text = size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(1) : value.toPrecision(3);
  return text.replace("e-", "e−").replace(/^-/, "−");
}

/** A share as percent: 97.4 %. The space does not break a line. */
function percent(value, digits = 1) {
  return value === null || value === undefined ? DASH : `${(100 * value).toFixed(digits)}\u00a0%`;
}

/** A value of a figure or a score in its unit. */
function inUnit(value, unit) {
  return unit === "share" ? percent(value) : number(value);
}

/** How a class is called. */
function classLabel(index, name) {
  return name ? name : `class ${index}`;
}

/** Says something to people who use a screen reader. */
function announce(text) {
  document.getElementById("announce").textContent = text;
}
