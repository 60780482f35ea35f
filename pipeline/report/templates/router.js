/* Shows the view that the address names, and moves by keyboard. */

let current = { view: "overview" }; // what is shown
let requests = 0; // so that a slow answer does not replace a newer view

function startRouter() {
  if (fullgrad.results === null) {
    document.getElementById("main").replaceChildren(el("p", {}, "data/index.js cannot be read: keep it beside this page."));
    return;
  }
  document.querySelector("nav [data-view=comparison]").hidden = fullgrad.results.comparison === null;
  window.addEventListener("hashchange", () => show(true));
  window.addEventListener("keydown", byKeyboard);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address names the view
    document.getElementById("main").focus();
  });
  show(false);
}

/** The parts of the address: view, class, kind and image. */
function route() {
  const [view, index, kind, key] = location.hash.slice(1).split("/");
  return { view: view || "overview", index: Number(index), kind, key };
}

async function show(moved) {
  const request = ++requests;
  const wanted = route();
  let content;
  let loaded = null;
  let place = -1;
  try {
    if (wanted.view === "class" || wanted.view === "image") {
      if (!fullgrad.results.classes.index.includes(wanted.index)) throw new Error("there is no such class in this report");
      loaded = await fullgrad.load(wanted.index);
      if (request !== requests) return;
    }
    if (wanted.view === "classes") content = classesView();
    else if (wanted.view === "comparison") content = comparisonView();
    else if (wanted.view === "class") content = classView(wanted.index, loaded);
    else if (wanted.view === "image") {
      place = loaded.data.examples.findIndex((example) => example.key === wanted.key);
      if (place < 0) throw new Error("there is no such image in this report");
      content = imageView(wanted.index, wanted.kind, place, loaded);
    } else content = overview();
  } catch (error) {
    content = [el("h1", {}, "Not found"), el("p", {}, `This cannot be shown: ${error.message}.`)];
  }
  const before = current;
  current = { ...wanted, place, loaded };
  const main = document.getElementById("main");
  main.replaceChildren(...content.flat(Infinity).filter(Boolean));
  main.dataset.view = wanted.view;
  main.dataset.shown = location.hash;
  for (const link of document.querySelectorAll("nav [data-view]")) {
    const inside = link.dataset.view === (["class", "image"].includes(wanted.view) ? "classes" : wanted.view);
    if (inside) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  const heading = main.querySelector("h1").textContent;
  document.title = wanted.view === "overview" ? fullgrad.results.title : `${heading} – ${fullgrad.results.title}`;
  if (moved) arrive(main, before, heading);
}

/** After a move: the new view from its top, or, back from an image, the image's card in its class. */
function arrive(main, before, heading) {
  const card =
    before.view === "image" && current.view === "class"
      ? main.querySelector(`[data-key="${CSS.escape(before.key)}"][href*="/${CSS.escape(before.kind)}/"]`)
      : null;
  if (card) {
    card.focus();
    card.scrollIntoView({ block: "center" });
  } else {
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  announce(heading);
}

/** Arrows move between images; Escape goes from an image to its class, and from a class to all classes. */
function byKeyboard(event) {
  const typing = event.target.matches?.("input, select, textarea, .scroll");
  if (event.altKey || event.ctrlKey || event.metaKey || typing) return;
  if (event.key === "Escape") {
    if (current.view === "image") location.hash = `#class/${current.index}`;
    else if (current.view === "class") location.hash = "#classes";
  }
  if (current.view === "image" && current.loaded && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    const address = neighbours(current.index, current.kind, current.place, current.loaded)[event.key === "ArrowLeft" ? 0 : 1];
    if (address) {
      event.preventDefault();
      location.hash = address;
    }
  }
}
