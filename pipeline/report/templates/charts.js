/* Charts as inline SVG. Each has its numbers as text for people who do not see it. */

/** A bar with an interval, for a rate from 0 to 1. */
function intervalChart(rate, low, high) {
  if (rate === null) return null;
  const x = (value) => (96 * value).toFixed(2);
  return svg(
    "svg",
    { class: "interval", width: 96, height: 10, viewBox: "0 0 96 10", "aria-hidden": "true" },
    svg("rect", { x: 0, y: 4, width: 96, height: 2, rx: 1, fill: "var(--line)" }),
    svg("rect", { x: x(low), y: 3, width: x(high - low), height: 4, rx: 2, fill: "var(--band)" }),
    svg("circle", { cx: x(rate), cy: 5, r: 3, fill: "var(--mean)" }),
  );
}

/** Two box plots over each other: a class and all images. Quantiles are p05, p25, p50, p75 and p95; some may be null. */
function boxPlot(own, all, write) {
  const known = [...own, ...all].filter((value) => value !== null);
  if (!known.length) return null;
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const x = (value) => 6 + (388 * (value - low)) / span;
  const row = (quantiles, y, stroke, band) => {
    const [p05, p25, p50, p75, p95] = quantiles;
    return [
      p05 !== null && p95 !== null && svg("path", { d: `M${x(p05)} ${y}H${x(p95)}`, stroke, "stroke-width": 1.5 }),
      p25 !== null &&
        p75 !== null &&
        svg("rect", { x: x(p25), y: y - 6, width: Math.max(1, x(p75) - x(p25)), height: 12, rx: 2, fill: band }),
      p50 !== null && svg("path", { d: `M${x(p50)} ${y - 7}V${y + 7}`, stroke, "stroke-width": 2.5 }),
    ];
  };
  const words = (quantiles) => {
    const [p05, , p50, , p95] = quantiles;
    return `median ${write(p50)}, nine tenths between ${write(p05)} and ${write(p95)}`;
  };
  const label = `This class: ${words(own)}. All images: ${words(all)}.`;
  return svg(
    "svg",
    { class: "box", viewBox: "0 0 400 40", preserveAspectRatio: "none", role: "img", "aria-label": label },
    row(own, 10, "var(--mean)", "var(--band)"),
    row(all, 30, "var(--muted)", "var(--strong)"),
  );
}

/** A bar of a sum: from one value to the next, on an axis from `low` to `high`. */
function sumBar(from, to, low, high) {
  const x = (value) => (300 * (value - low)) / (high - low || 1);
  const left = Math.min(x(from), x(to));
  const width = Math.max(1.5, Math.abs(x(to) - x(from)));
  return svg(
    "svg",
    { viewBox: "0 0 300 16", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: `M${x(0)} 0V16`, stroke: "var(--strong)", "stroke-width": 1 }),
    svg("rect", { x: left, y: 3, width, height: 10, rx: 2, fill: to >= from ? "var(--plus)" : "var(--minus)" }),
  );
}

/** Counts of classes as bars that link to them. Rows are [class, name, count]. */
function classBars(rows) {
  const most = Math.max(...rows.map(([, , count]) => count));
  return el(
    "ul",
    { class: "bars" },
    rows.map(([index, name, count]) =>
      el(
        "li",
        {},
        el("a", { href: `#class/${index}` }, classLabel(index, name)),
        el(
          "span",
          { class: "track", "aria-hidden": "true" },
          el("span", { class: "fill", style: `width: ${(100 * count) / most}%` }),
        ),
        el("span", { class: "number" }, whole(count)),
      ),
    ),
  );
}
