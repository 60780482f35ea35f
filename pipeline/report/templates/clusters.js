/* The clusters of a class: groups of its images whose evidence is alike, with their mean maps and pictures. */

const CLUSTER_VIEWS = {
  channels: "the same channels of the model add to the score",
  maps: "it lies at the same places",
};

const CLUSTER_EXAMPLES = 6;

/** The section of the clusters; null if the class has none. The first view has pictures, others only mean maps. */
function clusterSection(index, name, loaded) {
  const { clusters } = loaded.data;
  if (!clusters) return null;
  const [best, ...others] = clusters;
  const sampled = best.clusters.reduce((sum, { size }) => sum + size, 0);
  return [
    el("h2", {}, "Clusters"),
    el(
      "p",
      { class: "note" },
      `${whole(sampled)} images of this class in groups whose evidence is alike: ${CLUSTER_VIEWS[best.view]}. ` +
        "A group may be a natural kind of the class, or images with a mark that the model has learnt; the pictures tell. " +
        "Every class is divided, also one whose images are all of a kind. The number at a picture is the cosine to its group's mean.",
    ),
    el("ul", { class: "clusters" }, best.clusters.map((cluster) => clusterRow(index, name, loaded, cluster))),
    others.map((view) =>
      el(
        "details",
        { class: "tested" },
        el("summary", {}, `The same images grouped so that ${CLUSTER_VIEWS[view.view].replace("it lies", "their evidence lies")}`),
        el("ul", { class: "clusters small" }, view.clusters.map((cluster) => clusterRow(index, name, loaded, cluster, false))),
      ),
    ),
  ];
}

function clusterRow(index, name, loaded, cluster, pictures = true) {
  const kind = { name: `cluster-${cluster.cluster}`, unit: "number" };
  const choices = pictures ? (loaded.data.kinds[kind.name] ?? []).slice(0, CLUSTER_EXAMPLES) : [];
  const right = cluster.accuracy === null ? "" : `, ${percent(cluster.accuracy, 0)} of those with a label are right`;
  return el(
    "li",
    {},
    picture(`Mean map of cluster ${cluster.cluster + 1} of ${name}`, [mapCanvas(decodeMap(cluster.map)), clusterFrame(cluster)]),
    el(
      "div",
      {},
      el("p", {}, el("strong", {}, cluster.sentence)),
      el("p", { class: "note" }, `${whole(cluster.size)} ${cluster.size === 1 ? "image" : "images"}${right}.`),
      choices.length > 0 && el("ul", { class: "cards" }, choices.map(([place, score]) => card(index, loaded, kind, place, score))),
    ),
  );
}

/** Lines around the cells where a cluster has more evidence than the rest of its class. */
function clusterFrame({ cells, map }) {
  if (!cells.length) return null;
  const [height, width] = [map[3], map[4]];
  const inside = new Set(cells);
  const has = (y, x) => y >= 0 && x >= 0 && y < height && x < width && inside.has(y * width + x);
  const lines = cells.flatMap((cell) => {
    const [y, x] = [Math.floor(cell / width), cell % width];
    return [
      !has(y - 1, x) && `M${x} ${y}h1`,
      !has(y + 1, x) && `M${x} ${y + 1}h1`,
      !has(y, x - 1) && `M${x} ${y}v1`,
      !has(y, x + 1) && `M${x + 1} ${y}v1`,
    ].filter(Boolean);
  });
  return svg(
    "svg",
    { class: "outline", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { d: lines.join("") }),
  );
}
