/* The overview: what stands out, how good the model is, what failed, and what was run. */

const FINDINGS_SHOWN = 12;

function overview() {
  const { title, totals, completeness, findings, nothing, failures, warnings, missing, run, checks } = fullgrad.results;
  return [
    el("h1", {}, title),
    el("p", { class: "lead" }, summaryOf(totals)),
    warnings.map((sentence) => el("p", { class: "warning" }, el("strong", {}, "Warning: "), sentence)),
    missing.map((sentence) => el("p", { class: "note" }, sentence)),
    checks && checksOverview(checks),
    el("h2", {}, "What stands out"),
    findings.length ? findingList(findings) : el("p", { class: "lead" }, nothing),
    checks ? null : uncheckedNote(),
    tiles(totals, completeness),
    el("h2", {}, "Do the explanations add up?"),
    el("p", { class: "lead" }, completeness.sentence),
    completeness.quantiles.p50 !== undefined && completenessList(completeness.quantiles),
    el("h2", {}, "Images without a map"),
    failures.length
      ? failures.map(failure)
      : el("p", { class: "lead" }, "Every image has a map: nothing failed."),
    el("h2", {}, "What was run"),
    el("dl", { class: "facts" }, run.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
  ];
}

function summaryOf(totals) {
  const classes = fullgrad.results.classes.index.length;
  const maps = totals.maps === totals.images ? "" : ` with ${whole(totals.maps)} maps`;
  return `${whole(totals.images)} images${maps} in ${whole(classes)} ${classes === 1 ? "class" : "classes"}.`;
}

function findingList(findings) {
  const grouped = groupByClass(findings);
  const further = grouped.length - FINDINGS_SHOWN;
  return [
    el(
      "ul",
      { class: "findings" },
      grouped.slice(0, FINDINGS_SHOWN).map(finding),
    ),
    further > 0 &&
      el("p", { class: "note" }, `${whole(further)} more: the table of classes shows every flag. `, el("a", { href: "#classes" }, "Open it")),
  ];
}

function groupByClass(findings) {
  const groups = new Map();
  for (const each of findings) groups.set(each.class, [...(groups.get(each.class) ?? []), each]);
  return [...groups.values()];
}

/** All findings of one class: the first in full, the others below it. */
function finding([{ class: index, sentence, kind }, ...others], place) {
  const { classes } = fullgrad.results;
  const row = classes.index.indexOf(index);
  const name = classLabel(index, classes.name[row]);
  const map = row >= 0 && classes.map[row] ? decodeMap(classes.map[row]) : null;
  const words = sentence.startsWith(name)
    ? [el("strong", {}, el("a", { href: `#class/${index}` }, name)), sentence.slice(name.length)]
    : [el("a", { href: `#class/${index}` }, sentence)];
  const strip = el("div", { class: "strip" });
  if (place === 0 && kind) showStrip(strip, index, kind);
  return el(
    "li",
    { class: place === 0 ? "finding first" : "finding" },
    map ? picture(`Mean map of ${name}`, [mapCanvas(map)]) : el("span", {}),
    el(
      "div",
      {},
      el("p", {}, words),
      others.map((other) => el("p", { class: "more" }, withoutName(other.sentence, name))),
      place === 0 && kind ? strip : null,
    ),
  );
}

/** A sentence about a class, beside its name: "octagon: 5 of …" is "5 of …". */
function withoutName(sentence, name) {
  return sentence.startsWith(`${name}: `) ? sentence.slice(name.length + 2) : sentence;
}

/** Adds the first examples of a finding, once they are loaded. Without them, the sentence stands alone. */
async function showStrip(strip, index, kind) {
  const loaded = await fullgrad.load(index).catch(() => null);
  const choices = loaded?.data.kinds[kind] ?? [];
  strip.append(
    ...choices.slice(0, 10).map(([place]) => {
      const example = loaded.data.examples[place];
      return el(
        "a",
        { href: imageAddress(index, kind, example.key) },
        picture(`Overlay of ${example.id}`, exampleLayers(loaded, place, "overlay"), ratioOf(loaded, place)),
      );
    }),
  );
  applyDisplay(strip);
}

function tiles(totals, completeness) {
  const tile = (name, value, under) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, el("span", { class: "value" }, value), el("span", { class: "under" }, under)));
  const [low, high] = totals.interval ?? [null, null];
  return el(
    "dl",
    { class: "tiles" },
    tile(
      "Accuracy",
      percent(totals.accuracy),
      totals.accuracy === null ? "no image has a label" : `95\u00a0% interval ${percent(low)} to ${percent(high)}`,
    ),
    tile(
      "Images",
      whole(totals.images),
      totals.failed ? `${whole(totals.failed)} more failed (${percent(totals.failed_fraction, 2)})` : "none failed",
    ),
    tile(
      "Images per second",
      number(totals.images_per_second),
      totals.seconds === null ? "nothing was computed anew" : `in ${number(totals.seconds)} s`,
    ),
    tile("Completeness error", number(completeness.quantiles.max ?? null), "the largest of all images"),
  );
}

function completenessList(quantiles) {
  const words = { p50: "half of the images", p95: "95 of 100 images", p99: "99 of 100 images", max: "all images" };
  return el(
    "dl",
    { class: "facts" },
    Object.entries(words).map(([name, text]) => [
      el("dt", {}, `At most ${number(quantiles[name])}`),
      el("dd", {}, `for ${text}`),
    ]),
  );
}

function failure({ error, meaning, count, examples }) {
  return el(
    "details",
    { class: "failure" },
    el("summary", {}, el("strong", {}, error), ` ${whole(count)}. ${meaning}`),
    el(
      "ul",
      {},
      examples.map(({ id, shard, index, message }) =>
        el("li", {}, el("strong", {}, id ?? shard), index === null ? "" : ` (${shard}, record ${index})`, `: ${message}`),
      ),
    ),
  );
}
