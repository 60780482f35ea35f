/* What a check found: on the overview the most convincing findings, on a class's page all of its own with pictures. */

const VERDICTS = {
  used: "the model uses it",
  "salient only": "it stands out in maps at most: changing it hardly changes predictions",
  undecided: "the images do not decide it",
};

const CHECKS_SHOWN = 12;

/** A verdict as a word in a badge; what it means as its title. */
function verdict(word) {
  return el("span", { class: `verdict ${word.replace(" ", "-")}`, title: VERDICTS[word] ?? null }, word);
}

/** What was tested, in words: "the bottom right", or the look of the evidence. */
function checkedPlace({ kind, place }) {
  return kind === "look" || !place ? "its look, wherever it is" : `the ${place}`;
}

function uncheckedNote() {
  const { check_command } = fullgrad.results;
  return el("p", { class: "note unchecked" }, el("code", {}, check_command), " tests whether the model uses what stands out.");
}

function checksOverview({ classes, used, findings, listed }) {
  const mains = listed.filter((each) => each.main);
  const counted = `${whole(used)} of ${whole(classes)} tested ${classes === 1 ? "class" : "classes"}`;
  const found = used
    ? `In ${counted}, the model uses something that stands out.`
    : `Nothing that stands out was found to be used in ${classes === 1 ? "the tested class" : `the ${whole(classes)} tested classes`}.`;
  const more = used - Math.min(mains.length, CHECKS_SHOWN);
  return [
    el("h2", {}, "What was tested"),
    el("p", { class: "lead" }, `Parts of images were covered, and pasted into images of other classes. ${found}`),
    mains.length > 0 && el("ul", { class: "findings" }, mains.slice(0, CHECKS_SHOWN).map(checkedCard)),
    more > 0 && el("p", { class: "note" }, `${whole(more)} more ${more === 1 ? "class" : "classes"}: see the list.`),
    listed.length > 0 &&
      el(
        "details",
        { class: "tested" },
        el("summary", {}, findings === 1 ? "The finding" : `All ${whole(findings)} findings`),
        verdictKey(),
        el("ul", {}, listed.map(checkedLine)),
        findings > listed.length &&
          el("p", { class: "note" }, `The first ${whole(listed.length)}; the others are on the pages of their classes.`),
      ),
  ];
}

function verdictKey() {
  return el(
    "p",
    { class: "note" },
    Object.entries(VERDICTS).map(([word, meaning], place) => [place ? "; " : "", verdict(word), ` ${meaning}`]),
    ".",
  );
}

function checkedCard(finding, place) {
  const { classes } = fullgrad.results;
  const { class: index, class_name } = finding;
  const name = classLabel(index, class_name);
  const map = classes.map[classes.index.indexOf(index)];
  const rest = finding.kind === "look" ? "something that looks the same from picture to picture" : checkedPlace(finding);
  const strip = el("ul", { class: "changes" });
  if (place === 0) showChanges(strip, finding);
  return el(
    "li",
    { class: place === 0 ? "finding first" : "finding" },
    map ? picture(`Mean map of ${name}`, [mapCanvas(decodeMap(map))]) : el("span", {}),
    el(
      "div",
      {},
      el("p", {}, el("strong", {}, checkedLink(finding)), ` rests on ${rest}. `, verdict(finding.verdict)),
      el("p", { class: "more" }, finding.sentence),
      place === 0 ? strip : null,
    ),
  );
}

/** The class of a finding, linked where it has a page. */
function checkedLink({ class: index, class_name }) {
  const name = classLabel(index, class_name);
  return fullgrad.results.classes.index.includes(index) ? el("a", { href: `#class/${index}` }, name) : name;
}

function checkedLine(finding) {
  return el("li", {}, el("p", {}, checkedLink(finding), `, ${checkedPlace(finding)} `, verdict(finding.verdict)), el("p", { class: "note" }, finding.sentence));
}

/** Adds pictures of a finding before and after, once they are loaded. Without them, the sentence stands alone. */
async function showChanges(strip, { class: index, kind }) {
  const loaded = await fullgrad.load(index).catch(() => null);
  const pairs = loaded?.data.checks?.pairs.filter((pair) => pair.finding === kind && pair.kind !== "evidence") ?? [];
  const covered = pairs.filter((pair) => pair.kind === "covered").slice(0, 2);
  const chosen = [...covered, ...pairs.filter((pair) => pair.kind === "pasted").slice(0, 4 - covered.length)];
  if (chosen.length) strip.append(...chosen.map((pair) => change(loaded, pair)));
  else strip.remove();
}

/* ---- on a class's page */

const CHANGES = [
  ["covered", "Covered"],
  ["pasted", "Added to images of other classes"],
  ["evidence", "The part of each image whose covering costs most"],
];

function classChecks(name, loaded) {
  const { checks } = loaded.data;
  if (checks === null) return null;
  const open = checks.findings.find((each) => each.main) ?? checks.findings[0];
  return [
    el("h2", {}, "Checked"),
    verdictKey(),
    checks.findings.map((finding) => classCheck(name, loaded, finding, finding === open)),
  ];
}

/** A finding; its numbers and pictures are made when it is opened. */
function classCheck(name, loaded, finding, open) {
  const place = checkedPlace(finding);
  const body = el("div");
  const make = () => body.childElementCount || body.append(...checkedDetails(name, loaded, finding));
  if (open) make();
  return el(
    "details",
    { class: "checked", open, ontoggle: make },
    el("summary", {}, el("strong", {}, place[0].toUpperCase() + place.slice(1)), " ", verdict(finding.verdict)),
    el("p", { class: "lead" }, finding.sentence),
    body,
  );
}

function checkedDetails(name, loaded, finding) {
  const pairs = loaded.data.checks.pairs.filter((pair) => pair.finding === finding.kind);
  return [
    checkedTable(name, finding),
    el("p", { class: "note" }, checkedNote(finding)),
    ...CHANGES.map(([kind, title]) => {
      const own = pairs.filter((pair) => pair.kind === kind);
      if (!own.length) return null;
      return [el("h3", {}, title), el("ul", { class: kind === "evidence" ? "cards" : "changes" }, own.map((pair) => change(loaded, pair)))];
    }).flat(),
  ].filter(Boolean);
}

function withEnds(value, low, high, write) {
  if (value === null) return DASH;
  const ends = low === null || high === null ? null : `${write(low)} to ${write(high)}`;
  return [write(value), ends && el("span", { class: "ends" }, ends)];
}

function checkedTable(name, finding) {
  const share = (value) => percent(value, value !== null && value > 0 && value < 0.095 ? 1 : 0);
  const cells = (what, write) => {
    const [value, low, high] = [what, `${what}_low`, `${what}_high`].map((key) => finding[key] ?? null);
    return el("td", { class: "number" }, withEnds(value, low, high, write));
  };
  const row = (title, images, turned, logit, probability, quiet = true) =>
    el(
      "tr",
      { class: quiet && "control" },
      el("th", { scope: "row" }, title),
      el("td", { class: "number" }, images === null ? DASH : whole(images)),
      [
        [turned, share],
        [logit, number],
        [probability, share],
      ].map(([key, write]) => (key ? cells(key, write) : el("td", { class: "number" }, DASH))),
    );
  const { images, others } = finding;
  const covered = finding.logit_drop !== null && [
    row("Covered", images, "turned", "logit_drop", "probability_drop", false),
    row("The same, filled with a blur", images, "turned_blurred", "logit_drop_blurred", null),
    row("Control: as much covered elsewhere", images, "turned_elsewhere", "logit_drop_elsewhere", null),
    row("Control: the same part of other classes covered", null, "turned_others", "logit_drop_others", null),
  ];
  const added = finding.added !== null && [
    row(`Added to other classes: turned into ${name}`, others, "added", null, null, false),
    row("Control: the part of any other image added", others, "added_control", null, null),
  ];
  const head = (text) => el("th", { scope: "col", class: "number" }, text);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": `Test of ${checkedPlace(finding)}` },
    el(
      "table",
      { class: "effects" },
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "What was changed"), head("Images"), head("Turned"), head("Logit falls by"), head("Probability falls by"))),
      el("tbody", {}, covered, added),
    ),
  );
}

function checkedNote(finding) {
  const { q_cover, q_add, accuracy_before, accuracy_after } = finding;
  const tests = [
    finding.turned !== null && `covering ${number(q_cover)}`,
    finding.added !== null && `adding ${number(q_add)}`,
  ].filter(Boolean);
  return [
    "The ends of 95\u00a0% intervals are below the numbers. An image is turned if its prediction changes.",
    accuracy_before !== null && ` Covering takes the accuracy from ${percent(accuracy_before)} to ${percent(accuracy_after)}.`,
    tests.length > 0 && ` q, corrected for all tests: ${tests.join(", ")}.`,
  ].filter(Boolean);
}

/** A pair of pictures, before and after; or an image with the part whose covering costs most in a frame. */
function change(loaded, pair) {
  const { sprite } = loaded.data.checks;
  const canvas = (place) => spriteCanvas(sprite, loaded.checked, place);
  const ratio = (place) => (sprite.sizes[place] ? sprite.sizes[place][0] / sprite.sizes[place][1] : 1);
  const [before, after] = pair.pictures;
  const was = classLabel(pair.predicted_before, pair.predicted_before_name);
  const becomes = classLabel(pair.predicted_after, pair.predicted_after_name);
  const same = pair.predicted_before === pair.predicted_after;
  const words = same ? `still ${becomes}` : `${was} → ${becomes}`;
  if (after === null) {
    const [top, left, bottom, right] = pair.box.map((side) => 100 * side);
    const frame = el("span", { class: "frame", style: `top: ${top}%; left: ${left}%; width: ${right - left}%; height: ${bottom - top}%` });
    return el(
      "li",
      { class: "card" },
      picture(`${pair.id} with a frame around the part; without it: ${same ? "still" : "taken for"} ${becomes}`, [canvas(before), frame], ratio(before)),
      el("span", { class: "caption" }, words),
    );
  }
  const what = pair.kind === "covered" ? "with the part covered" : "with the part added";
  return el(
    "li",
    {},
    el(
      "span",
      { class: "pair" },
      picture(`${pair.id} as it is: taken for ${was}`, [canvas(before)], ratio(before)),
      picture(`${pair.id} ${what}: taken for ${becomes}`, [canvas(after)], ratio(after)),
    ),
    el("span", { class: "caption" }, words),
  );
}
