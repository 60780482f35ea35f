/* The table of classes: sorted by any column, filtered by name and flag. */

const TABLE_FIGURES = ["corner_mass", "border_mass", "area50", "entropy"];

/* Kept while the page is open, so that coming back from a class finds the table as it was. */
const table = { sort: "class", down: false, filter: "", flagged: false };

let tableRows = null; // made once: the elements of every class

function classesView() {
  const { classes, figures } = fullgrad.results;
  const shown = TABLE_FIGURES.map((name) => figures.find((each) => each.name === name));
  tableRows ??= classes.index.map((_, row) => classRow(row, shown));

  const body = el("tbody");
  const count = el("p", { class: "note", role: "status" });
  const head = (key, label, title, isNumber) =>
    el(
      "th",
      { scope: "col", class: isNumber && "number", "data-sort": key },
      el("button", { type: "button", title, onclick: () => sortBy(key) }, label),
    );
  const heads = el(
    "tr",
    {},
    el("th", { scope: "col" }, "Mean map"),
    head("class", "№", "The number of the class", true),
    head("name", "Class", "Sort by name"),
    head("images", "Images", "The number of maps that explain the class", true),
    head("accuracy", "Accuracy", "The share of the images with this label that the model takes for it", true),
    shown.map(({ name, label, meaning }) => head(name, label, meaning, true)),
  );

  const show = () => {
    const wanted = table.filter.trim().toLowerCase();
    const rows = tableRows.filter(
      ({ text, flags }) => (!wanted || text.includes(wanted)) && (!table.flagged || flags.length),
    );
    rows.sort((a, b) => compare(a.keys[table.sort], b.keys[table.sort]) * (table.down ? -1 : 1) || a.row - b.row);
    fillInSteps(body, rows.map(({ element }) => element));
    count.textContent = `${whole(rows.length)} of ${whole(tableRows.length)} classes`;
    for (const th of heads.children) {
      if (th.dataset.sort === table.sort) th.setAttribute("aria-sort", table.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  };
  const sortBy = (key) => {
    // Numbers begin with the largest, as that is what people look for; names and classes with the first.
    table.down = table.sort === key ? !table.down : !["class", "name"].includes(key);
    table.sort = key;
    show();
  };
  show();

  return [
    el("h1", {}, "Classes"),
    el("p", { class: "lead" }, "± is half of the 95\u00a0% interval of a mean. A flag marks a figure that lies far above the other classes."),
    el(
      "div",
      { class: "filter" },
      el("label", { class: "hidden", for: "filter" }, "Filter by name"),
      el("input", {
        id: "filter",
        type: "search",
        placeholder: "Filter by name",
        value: table.filter,
        oninput: (event) => {
          table.filter = event.target.value;
          show();
        },
      }),
      el(
        "label",
        { class: "check" },
        el("input", {
          type: "checkbox",
          checked: table.flagged,
          onchange: (event) => {
            table.flagged = event.target.checked;
            show();
          },
        }),
        "Only flagged classes",
      ),
    ),
    count,
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of classes" }, el("table", {}, el("thead", {}, heads), body)),
  ];
}

const ROWS_AT_ONCE = 60;

let fillings = 0;

/** Replaces an element's children: the first at once, the others while nothing else is to be done. */
function fillInSteps(parent, makers) {
  parent.replaceChildren(...makers.slice(0, ROWS_AT_ONCE).map((make) => make()));
  const own = ++fillings;
  const more = (from) => {
    if (own !== fillings) return; // another order or filter has come since
    parent.append(...makers.slice(from, from + ROWS_AT_ONCE).map((make) => make()));
    if (from + ROWS_AT_ONCE < makers.length) setTimeout(more, 0, from + ROWS_AT_ONCE);
  };
  if (makers.length > ROWS_AT_ONCE) setTimeout(more, 0, ROWS_AT_ONCE);
}

/** What is missing comes last in both directions. */
function compare(a, b) {
  if (a === null || b === null) return a === b ? 0 : (a === null ? 1 : -1) * (table.down ? -1 : 1);
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}

/** A row of the table: its keys for sorting, and its element, which is made when it is first shown. */
function classRow(row, shown) {
  const { classes } = fullgrad.results;
  const index = classes.index[row];
  const name = classLabel(index, classes.name[row]);
  const flags = classes.flags[row];
  let element = null;
  const make = () => {
    const map = classes.map[row] && decodeMap(classes.map[row]);
    return el(
      "tr",
      {},
      el("td", {}, map ? picture(`Mean map of ${name}`, [mapCanvas(map)]) : DASH),
      el("td", { class: "number quiet" }, String(index)),
      el("th", { scope: "row" }, el("a", { href: `#class/${index}` }, name), tags(flags)),
      el("td", { class: "number" }, whole(classes.images[row])),
      el("td", { class: "number", title: accuracyTitle(row) }, percent(classes.accuracy[row]), intervalChart(classes.accuracy[row], classes.low[row], classes.high[row])),
      shown.map((figure) =>
        el(
          "td",
          { class: "number" },
          inUnit(classes.mean[figure.name][row], figure.unit),
          " ",
          el("span", { class: "plusminus" }, plusMinus(row, figure)),
        ),
      ),
    );
  };
  return {
    row,
    text: name.toLowerCase(),
    flags,
    element: () => (element ??= make()),
    keys: {
      class: index,
      name,
      images: classes.images[row],
      accuracy: classes.accuracy[row],
      ...Object.fromEntries(shown.map((figure) => [figure.name, classes.mean[figure.name][row]])),
    },
  };
}

function accuracyTitle(row) {
  const { classes } = fullgrad.results;
  if (classes.accuracy[row] === null) return "no image has this label";
  return `${whole(classes.correct[row])} of ${whole(classes.labelled[row])}; 95\u00a0% interval ${percent(classes.low[row])} to ${percent(classes.high[row])}`;
}

/** Half the interval of a class's mean figure, with as many decimals as the mean has. */
function plusMinus(row, { name, unit }) {
  const { mean, half } = fullgrad.results.classes;
  const value = half[name][row];
  if (value === null) return "";
  if (unit === "share") return `± ${(100 * value).toFixed(1)}`;
  const text = number(mean[name][row]);
  const decimals = (text.split(".")[1] ?? "").length;
  const rounded = value.toFixed(decimals);
  return `± ${text.includes("e") || (Number(rounded) === 0 && value > 0) ? number(value) : rounded}`;
}

/** The flags of a class, in a line of their own. */
function tags(flags) {
  return flags.length ? el("span", { class: "tags" }, flags.map((flag) => el("span", { class: "tag" }, flag))) : null;
}
