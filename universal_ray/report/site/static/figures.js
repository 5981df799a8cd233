// The gallery: the paper’s figures, and those of this project, as files; what is not drawn says why.

function figuresPage() {
  const page = run.reference;
  const mine = run.figures.filter((each) => !each.model || !page || each.model === page.model);
  const drawn = mine.filter((each) => !each.reason), left = mine.filter((each) => each.reason);
  const chapters = [...new Set(drawn.map((each) => each.chapter))];
  return h("article", { class: "gallery" }, references(), h("h1", {}, "Figures"),
    h("p", { class: "lead" }, "The figures of the paper (arXiv 2401.12181) that the tables of this run tell, and some of its own, to be taken away: each as SVG and PDF, with the numbers that are drawn as CSV. ",
      page && run.pages.length > 1 && [`They are of ${page.label}, or of the whole run.`]),
    run.figures.length === 0 && h("p", { class: "missing" }, "None were asked for: report.figures=true draws them."),
    chapters.map((chapter) => section(chapter, h("div", { class: "plates" }, drawn.filter((each) => each.chapter === chapter).map(figureFile)))),
    left.length > 0 && section("Not drawn", h("ul", { class: "plainly" }, left.map((each) => h("li", {}, h("b", {}, worded(each.title)), ofThePaper(each), ": ", each.reason)))));
}

/** A figure with its caption and its files. */
function figureFile({ name, title, caption, tables, inches: [wide, tall], ...told }) {
  const file = (kind) => `figures/${name}.${kind}`;
  return h("figure", { class: "picture plate", id: `figure-${name}` },
    h("h3", {}, worded(title), ofThePaper(told)),
    h("img", { src: file("svg"), alt: caption, width: Math.round(wide * 96), height: Math.round(tall * 96), loading: "lazy", decoding: "async" }),
    h("figcaption", { "aria-hidden": "true" }, caption, " ", h("span", { class: "from" }, tables.join(", "))),
    h("p", { class: "links" }, ["svg", "pdf", "csv"].map((kind) => [h("a", { href: file(kind), download: `${name}.${kind}` }, kind.toUpperCase(), h("span", { class: "hidden" }, ` of ${worded(title)}`)), " "])));
}

/** Which figure of the paper it is. */
function ofThePaper({ paper }) {
  return paper.length > 0 && h("span", { class: "note" }, ` ${paper.length > 1 ? "Figures" : "Figure"} ${paper.join("; ")}`);
}
