/* A comparison with another output: what changed, class by class, and the images that changed most. */

/* Kept while the page is open. */
const comparisonTable = { sort: "spearman_mean", down: false };

function comparisonView() {
  const { comparison } = fullgrad.results;
  if (!comparison) throw new Error("there is no comparison in this report");
  const { sides, changed } = comparison;
  const [all, ...classes] = rowsOf(comparison.classes);
  return [
    el("h1", {}, "Comparison"),
    el("p", { class: "lead" }, comparisonSentence(all)),
    el("h2", { class: "hidden" }, "What was compared"),
    sides
      ? el("div", { class: "columns sides" }, Object.entries(sides).map(comparisonSide))
      : el("p", { class: "note" }, "A and B are the outputs in the order in which fullgrad compare was given them."),
    el("h2", {}, "Classes"),
    el(
      "p",
      { class: "note" },
      "The similarity of A's and B's maps of the same images: 1 if they are equal. An image counts for the class that A explains. ",
      "Below each number is its 95\u00a0% interval.",
    ),
    comparisonClasses(all, classes),
    el("h2", {}, "Changed predictions"),
    changed.length
      ? [
          el("p", { class: "note" }, changed.length < all.changed ? `The ${whole(changed.length)} whose maps are least alike, of ${whole(all.changed)}.` : "Those whose maps are least alike come first."),
          changedImages(changed),
        ]
      : el("p", { class: "lead" }, "No prediction changed."),
  ];
}

/** The rows of a table that the data has as a list for each column. */
function rowsOf(columns) {
  return columns.class.map((_, at) => Object.fromEntries(Object.entries(columns).map(([name, values]) => [name, values[at]])));
}

function comparisonSentence(all) {
  const share = all.images ? all.changed / all.images : null;
  const changed = `${whole(all.changed)} of ${whole(all.images)} predictions changed: ${percent(share)} (95\u00a0% interval ${percent(all.changed_low)} to ${percent(all.changed_high)}).`;
  if (!all.labelled) return changed;
  return `${changed} Accuracy: ${percent(all.correct_a / all.labelled)} in A, ${percent(all.correct_b / all.labelled)} in B.`;
}

function comparisonSide([side, facts]) {
  return el(
    "div",
    {},
    el("h3", {}, side),
    el("dl", { class: "facts" }, Object.entries(facts).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)])),
  );
}

/** A difference of shares in points of percent. */
const points = (value) => (value > 0 ? "+" : "") + (100 * value).toFixed(1).replace("-", "−");

/* Key, heading, meaning, and how a cell is written. */
const COMPARED = [
  ["images", "Images", "The number of images in both outputs", (row) => whole(row.images)],
  ["changed", "Changed", "The share of predictions that changed", (row) => withEnds(row.images ? row.changed / row.images : null, row.changed_low, row.changed_high, percent)],
  ["accuracy_a", "Accuracy A", "Of the images with a label", (row) => percent(accuracyIn(row, "a"))],
  ["accuracy_b", "Accuracy B", "Of the images with a label", (row) => percent(accuracyIn(row, "b"))],
  ["spearman_mean", "Rank correlation", "Spearman's, of the two maps", (row) => withEnds(row.spearman_mean, row.spearman_low, row.spearman_high, number)],
  ["cosine_mean", "Cosine", "Of the angle between the two maps", (row) => withEnds(row.cosine_mean, row.cosine_low, row.cosine_high, number)],
  ["probability_shift_mean", "Probability, points", "B's less A's, of the explained class, in points of percent", (row) => withEnds(row.probability_shift_mean, row.probability_shift_low, row.probability_shift_high, points)],
];

function accuracyIn(row, side) {
  return row.labelled ? row[`correct_${side}`] / row.labelled : null;
}

function comparedKey(row, key) {
  if (key === "name") return classLabel(row.class, row.class_name);
  if (key === "changed") return row.images ? row.changed / row.images : null;
  return key.startsWith("accuracy_") ? accuracyIn(row, key.slice(-1)) : row[key];
}

function comparisonClasses(all, classes) {
  const body = el("tbody");
  const head = ([key, label, title]) =>
    el("th", { scope: "col", class: key !== "name" && "number", "data-sort": key }, el("button", { type: "button", title, onclick: () => sortBy(key) }, label));
  const heads = el("tr", {}, head(["name", "Class", "Sort by name"]), COMPARED.map(head));
  const line = (row, name) => el("tr", {}, el("th", { scope: "row" }, name), COMPARED.map(([, , , write]) => el("td", { class: "number" }, write(row))));
  const show = () => {
    const { sort, down } = comparisonTable;
    const rows = classes.map((row) => [comparedKey(row, sort), row]);
    rows.sort(([a, one], [b, other]) => inOrder(a, b, down) || one.class - other.class);
    fillInSteps(body, rows.map(([, row]) => () => line(row, checkedLink(row))), ROWS_AT_ONCE);
    for (const th of heads.children) {
      if (th.dataset.sort === sort) th.setAttribute("aria-sort", down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  };
  const sortBy = (key) => {
    comparisonTable.down = comparisonTable.sort === key ? !comparisonTable.down : !["name", "spearman_mean", "cosine_mean"].includes(key);
    comparisonTable.sort = key;
    show();
  };
  show();
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of compared classes" },
    el("table", { class: "effects compared" }, el("thead", {}, heads), body, el("tfoot", {}, line(all, "All images"))),
  );
}

/** Sorts two values; what is missing comes last in both directions. */
function inOrder(a, b, down) {
  if (a === null || b === null) return a === b ? 0 : a === null ? 1 : -1;
  return (typeof a === "string" ? a.localeCompare(b) : a - b) * (down ? -1 : 1);
}

function changedImages(changed) {
  const answer = (row, side) => [classLabel(row[`predicted_${side}`], row[`predicted_name_${side}`]), el("span", { class: "ends" }, percent(row[`probability_${side}`]))];
  const head = (text, isNumber) => el("th", { scope: "col", class: isNumber && "number" }, text);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Images with another prediction" },
    el(
      "table",
      { class: "effects" },
      el("thead", {}, el("tr", {}, head("Image"), head("Label"), head("A"), head("B"), head("Rank correlation", true), head("Cosine", true))),
      el(
        "tbody",
        {},
        changed.map((row) =>
          el(
            "tr",
            {},
            el(
              "th",
              { scope: "row" },
              row.example ? el("a", { href: imageAddress(...row.example) }, row.image_id) : row.image_id,
              el("span", { class: "ends" }, `${row.shard}, record ${whole(row.index)}`),
            ),
            el("td", {}, row.label === null ? DASH : classLabel(row.label, row.label_name)),
            el("td", {}, answer(row, "a")),
            el("td", {}, answer(row, "b")),
            el("td", { class: "number" }, number(row.spearman)),
            el("td", { class: "number" }, number(row.cosine)),
          ),
        ),
      ),
    ),
  );
}
