/* An image: its map, the sum of its terms, its prediction, and where it came from. */

function imageView(index, kind, place, loaded) {
  const { classes } = fullgrad.results;
  const example = loaded.data.examples[place];
  const name = classLabel(index, classes.name[classes.index.indexOf(index)]);
  return [
    el("div", { class: "head" }, el("h1", {}, example.id), imagePager(index, kind, place, loaded)),
    el(
      "p",
      { class: "lead" },
      predictionSentence(example),
      " ",
      el("a", { href: `#class/${index}` }, `Back to ${name}`),
    ),
    el("h2", { class: "hidden" }, "Map"),
    trio(example, place, loaded),
    el("h2", {}, "The explanation adds up"),
    law(example, name),
    el("h2", {}, "Figures of its map"),
    imageFigures(example, index),
    el("h2", {}, "Where it came from"),
    el(
      "dl",
      { class: "facts" },
      el("dt", {}, "Id"),
      el("dd", {}, example.id),
      el("dt", {}, "Shard"),
      el("dd", {}, example.shard),
      el("dt", {}, "Record"),
      el("dd", {}, whole(example.index)),
    ),
  ];
}

function predictionSentence(example) {
  const predicted = classLabel(example.predicted, example.predicted_name);
  const label = example.label === null ? "It has no label." : example.label === example.predicted
    ? "The label says the same."
    : `Its label is ${classLabel(example.label, example.label_name)}.`;
  const rank = example.rank === 0 ? "" : ` The explained class comes ${example.rank + 1}. among the logits.`;
  return `The model takes it for ${predicted}. The explained class has a probability of ${percent(example.probability)}.${rank} ${label}`;
}

function imagePager(index, kind, place, loaded) {
  const [before, after] = neighbours(index, kind, place, loaded);
  const link = (address, text, rel) => address && el("a", { class: "button", href: address, rel }, text);
  return el("nav", { class: "pager", "aria-label": "Other images" }, link(before, "Previous", "prev"), link(after, "Next", "next"));
}

/** The addresses of the images before and after one in its kind; null at the ends. */
function neighbours(index, kind, place, loaded) {
  const choices = loaded.data.kinds[kind] ?? [];
  const at = choices.findIndex(([each]) => each === place);
  const address = (choice) => (choice && at >= 0 ? imageAddress(index, kind, loaded.data.examples[choice[0]].key) : null);
  return [address(choices[at - 1]), address(choices[at + 1])];
}

function trio(example, place, loaded) {
  const ratio = ratioOf(loaded, place);
  const map = example.map && (example.decoded ??= decodeMap(example.map));
  const image = imageCanvas(loaded, place);
  const part = (title, className, alt, layers, below) =>
    el("figure", { class: className }, el("figcaption", {}, title), picture(alt, layers, ratio), below);
  const pictures = el("div", { class: "trio" });
  const controls = image && map ? displayControls(pictures, null) : null;
  pictures.append(
    ...[
      image && part("Image", "", `${example.id} as the model sees it`, [image]),
      map && part("Map", image ? "" : "large", `Map of ${example.id}`, [mapCanvas(map)], legend(map)),
      image && map && part("Overlay", "large", `Map of ${example.id} over the image`, exampleLayers(loaded, place, "overlay")),
    ].filter(Boolean),
  );
  applyDisplay(pictures);
  return [pictures, controls];
}

/** The terms as a sum: input + bias = explained. The unlocated part of the bias is not in the map. */
function law(example, name) {
  const [explained, input, bias, unlocated] = example.terms;
  if (input === null || bias === null) {
    return el("p", { class: "note" }, "This method does not divide the logit into terms.");
  }
  const ends = [0, input, input + bias, explained, unlocated ?? 0];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const line = (className, text, value, from, to) =>
    el(
      "tr",
      { class: className },
      el("th", { scope: "row" }, text),
      el("td", { class: "number" }, number(value)),
      el("td", {}, sumBar(from, to, low, high)),
    );
  const contrast = example.contrast === null ? "" : `, minus that of class ${example.contrast}`;
  return [
    el(
      "table",
      { class: "law" },
      el(
        "tbody",
        {},
        line("", "Input term", input, 0, input),
        line("", "+ bias terms", bias, input, input + bias),
        unlocated !== null && line("part", "of these without a place in the map", unlocated, 0, unlocated),
        line("sum", `= explained: the score of ${name}${contrast}`, explained, 0, explained),
      ),
    ),
    el("p", { class: "note" }, `Completeness error: ${number(example.error)}. It says how far the terms are from the explained number, relative to their size.`),
  ];
}

function imageFigures(example, index) {
  const { figures, classes } = fullgrad.results;
  const row = classes.index.indexOf(index);
  return el(
    "div",
    { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures" },
    el(
      "table",
      {},
      el(
        "thead",
        {},
        el("tr", {}, el("th", { scope: "col" }, "Figure"), el("th", { scope: "col", class: "number" }, "This image"), el("th", { scope: "col", class: "number" }, "Class mean")),
      ),
      el(
        "tbody",
        {},
        figures.map(({ name, label, unit, meaning }, place) =>
          el(
            "tr",
            {},
            el("th", { scope: "row", title: meaning }, label),
            el("td", { class: "number" }, inUnit(example.figures[place], unit)),
            el("td", { class: "number quiet" }, inUnit(classes.mean[name][row], unit)),
          ),
        ),
      ),
    ),
  );
}
