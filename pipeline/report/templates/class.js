/* A class: its maps, what it is mistaken for, its figures beside those of all images, and its examples. */

const CLASS_MAPS = [
  ["mean", "Mean", "Where the model looks on average."],
  ["std", "Spread", "Where maps differ from each other: the standard deviation."],
  ["contrast", "Contrast", "Where it looks more (red) or less (blue) than for all images."],
  ["wrong", "Wrong", "The mean over images that have another label."],
];

function classView(index, loaded) {
  const { classes } = fullgrad.results;
  const row = classes.index.indexOf(index);
  const name = classLabel(index, classes.name[row]);
  return [
    el("div", { class: "head" }, el("h1", {}, name), pager(row)),
    el("p", { class: "lead" }, classSentence(row)),
    classFindings(index, name),
    el("h2", { class: "hidden" }, "Maps"),
    classMaps(name, loaded),
    classChecks(name, loaded),
    examples(index, name, loaded),
    el("h2", {}, "Mistaken for each other"),
    mistaken(name, loaded),
    el("h2", {}, "Figures of its maps"),
    el(
      "p",
      { class: "note" },
      "Each line shows where the values lie: half of them in the box, nine tenths on the line, the median as a bar.",
      el("span", { class: "key", style: "background: var(--band)" }),
      "this class",
      el("span", { class: "key", style: "background: var(--strong)" }),
      "all images",
    ),
    figureTable(row, loaded),
  ];
}

function classFindings(index, name) {
  const own = fullgrad.results.findings.filter((each) => each.class === index);
  return own.length ? el("div", { class: "warning" }, own.map(({ sentence }) => el("p", {}, withoutName(sentence, name)))) : null;
}

function pager(row) {
  const { classes } = fullgrad.results;
  const link = (other, text) => {
    const index = classes.index[other];
    if (index === undefined) return null;
    return el("a", { class: "button", href: `#class/${index}`, title: classLabel(index, classes.name[other]) }, text);
  };
  return el("nav", { class: "pager", "aria-label": "Other classes" }, link(row - 1, "Previous class"), link(row + 1, "Next class"));
}

function classSentence(row) {
  const { classes } = fullgrad.results;
  const images = `${whole(classes.images[row])} ${classes.images[row] === 1 ? "map explains" : "maps explain"} this class.`;
  if (classes.accuracy[row] === null) return `${images} No image has this label.`;
  return (
    `${images} Of ${whole(classes.labelled[row])} images with this label, the model gets ${percent(classes.accuracy[row])} right ` +
    `(95\u00a0% interval ${percent(classes.low[row])} to ${percent(classes.high[row])}).`
  );
}

function classMaps(name, loaded) {
  const share = (value) => (value === 0 ? "0" : `${number(100 * value)} %`);
  return el(
    "div",
    { class: "maps" + (display.smooth ? "" : " hard") },
    CLASS_MAPS.map(([key, label, meaning]) => {
      const coded = loaded.data.maps[key];
      const map = coded && decodeMap(coded);
      if (key === "contrast" && map) map.signed = true;
      return el(
        "figure",
        {},
        el("figcaption", {}, label),
        map
          ? [picture(`${label} map of ${name}`, [mapCanvas(map)]), legend(map, share)]
          : el("div", { class: "absent" }, key === "wrong" ? "No image with another label is taken for this class." : "No map."),
        el("p", { class: "note" }, meaning),
      );
    }),
  );
}

function mistaken(name, loaded) {
  const list = (title, rows, none) =>
    el("div", {}, el("h3", {}, title), rows.length ? classBars(rows) : el("p", { class: "note" }, none));
  const { taken_for, taken_as } = loaded.data;
  if (taken_for === null) return el("p", { class: "note" }, "This output has no confusion.parquet.");
  return el(
    "div",
    { class: "columns" },
    list(`Labelled ${name}, taken for`, taken_for, "No image with this label is taken for another class."),
    list(`Taken for ${name}, labelled`, taken_as, "No image with another label is taken for this class."),
  );
}

function figureTable(row, loaded) {
  const { classes, dataset, figures } = fullgrad.results;
  const rows = figures.map(({ name, label, unit, meaning }) => {
    const write = (value) => inUnit(value, unit);
    const all = dataset ? dataset.quantiles[name] : [null, null, null, null, null];
    return el(
      "tr",
      {},
      el("th", { scope: "row", title: meaning }, label),
      el("td", {}, boxPlot(loaded.data.quantiles[name], all, write)),
      el("td", { class: "number" }, write(classes.mean[name][row]), " ", el("span", { class: "plusminus" }, plusMinus(row, { name, unit }))),
      el("td", { class: "number quiet" }, dataset ? write(dataset.mean[name]) : DASH),
    );
  });
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures" },
    el(
      "table",
      { class: "figures" },
      el(
        "thead",
        {},
        el(
          "tr",
          {},
          el("th", { scope: "col" }, "Figure"),
          el("th", { scope: "col" }, "Distribution"),
          el("th", { scope: "col", class: "number" }, "Mean of the class"),
          el("th", { scope: "col", class: "number" }, "All images"),
        ),
      ),
      el("tbody", {}, rows),
    ),
  );
}

/* ---- examples */

function examples(index, name, loaded) {
  const { kinds } = fullgrad.results;
  const present = kinds.filter((kind) => loaded.data.kinds[kind.name]?.length);
  if (!present.length) return clusterSection(index, name, loaded);
  const clusters = el("div");
  const sections = el("div");
  const draw = () => {
    clusters.replaceChildren(...[clusterSection(index, name, loaded)].flat(Infinity).filter(Boolean));
    const makers = present.map((kind) => () => kindSection(index, name, loaded, kind));
    // Back from an image, its card takes the focus, so all are needed now.
    fillInSteps(sections, makers, current.view === "image" ? makers.length : 2);
    applyDisplay(all);
  };
  const all = el("div");
  all.append(clusters, el("h2", {}, "Examples"), displayControls(all, draw), sections);
  draw();
  return all;
}

function kindSection(index, name, loaded, kind) {
  return el(
    "section",
    { class: "kind" },
    el("h3", {}, kind.label),
    el("p", { class: "note" }, `${kind.meaning} The number is the ${kind.score}.`),
    el(
      "ul",
      { class: "cards" },
      loaded.data.kinds[kind.name].map(([place, score]) => card(index, loaded, kind, place, score)),
    ),
  );
}

function card(index, loaded, kind, place, score) {
  const example = loaded.data.examples[place];
  const label = example.label === null ? null : classLabel(example.label, example.label_name);
  const wrong = example.label !== null && example.label !== example.predicted;
  return el(
    "li",
    { class: "card" },
    el(
      "a",
      { href: imageAddress(index, kind.name, example.key), "data-key": example.key },
      picture(describeExample(example), exampleLayers(loaded, place), ratioOf(loaded, place)),
      el(
        "span",
        { class: "caption" },
        el("strong", {}, inUnit(score, kind.unit)),
        wrong && el("span", { class: "name", title: label }, label),
      ),
    ),
  );
}

/** What a picture of an example shows, in words. */
function describeExample(example) {
  const label = example.label === null ? "" : `, labelled ${classLabel(example.label, example.label_name)}`;
  return `${example.id}: taken for ${classLabel(example.predicted, example.predicted_name)}${label}`;
}

function imageAddress(index, kind, key) {
  return `#image/${index}/${kind}/${key}`;
}
