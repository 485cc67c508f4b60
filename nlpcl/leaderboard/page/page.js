/* The page's own script: the table's options, the filters, and a row's details. Everything a record says is set as text. */
"use strict";

const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const PAGE = 50; // rows

function element(tag, text, attributes = {}) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.textContent = text;
  return made;
}

/* A script beside the page, loaded once: a page opened from a file may not fetch. */
const loading = {};
function load(source) {
  loading[source] ??= new Promise((resolve, reject) => {
    const script = element("script", "", { src: source, onload: resolve });
    script.onerror = () => reject(new Error(`${source} is missing beside the page`));
    document.head.append(script);
  });
  return loading[source];
}

/* Table */

const escaped = (words) => element("p", words).innerHTML.replaceAll('"', "&quot;");

const place = (row) => [row.benchmark, row.scenario, row.backbone, row.encoder].filter(Boolean);

function methodCell(_, type, row) {
  const words = row.setting ? `${row.method} (${row.setting})` : row.method;
  if (type !== "display") return words;
  const setting = row.setting ? `<small>${escaped(row.setting)}</small>` : "";
  return `<a href="#${row.id}">${escaped(row.method)}</a>${setting}<small class="narrow">${escaped(place(row).join(" · "))}</small>`;
}

function figureCell(figure, type) {
  if (type === "sort" || type === "type") return figure.sort;
  if (type !== "display") return figure.text;
  return figure.hint ? `<span title="${escaped(figure.hint)}">${escaped(figure.text)}</span>` : figure.text;
}

function columnOf({ name, best }) {
  if (name === "method") return { name, data: null, render: methodCell, className: name };
  if (!best) return { name, data: name, render: (words, type) => (type === "display" ? escaped(words) : words), className: name };
  const orderSequence = best === "asc" ? ["asc", "desc"] : ["desc", "asc"];
  return { name, data: name, render: figureCell, type: "num", className: `${name} figure`, orderSequence };
}

async function showTable() {
  const { default: DataTable, set_or_remove_dark_class: followTheme } = await datatables;
  followTheme();
  const table = new DataTable("#table", {
    data: leaderboard.rows,
    columns: leaderboard.columns.map(columnOf),
    order: [],
    autoWidth: false,
    deferRender: true,
    pageLength: PAGE,
    lengthMenu: [25, 50, 100, 500, { label: "all", value: -1 }],
    layout: { topStart: "info", topEnd: "search", bottomStart: "pageLength", bottomEnd: "paging" },
    language: { search: "Search", lengthMenu: "_MENU_ a page", info: "_START_ to _END_ of _TOTAL_ results", infoFiltered: "(of _MAX_)" },
  });
  byId("table").parentElement.classList.add("scroll");
  byId("filters").addEventListener("change", ({ target }) => {
    table.search.fixed(target.name, target.value ? (_, row) => row[target.name] === target.value : null).draw();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  table.on("click", "tbody tr", function (event) {
    const row = table.row(this).data();
    if (row && !event.target.closest("a") && !getSelection().toString()) location.hash = row.id;
  });
  addEventListener("beforeprint", () => table.page.len(-1).draw());
  addEventListener("afterprint", () => table.page.len(PAGE).draw());
  root.dataset.ready = "table";
}

/* Details */

let shown = null;
let last = null;

function fill(table, pairs) {
  byId(table).tBodies[0].replaceChildren(...pairs.map(([name, value]) => {
    const line = element("tr", "");
    line.append(element("th", name, { scope: "row" }), element("td", value));
    return line;
  }));
}

function tile([name, value]) {
  const made = element("div", "");
  made.append(element("dt", name), element("dd", value));
  return made;
}

function draw(id, figure) {
  const place = byId(id);
  place.classList.toggle("empty", !figure);
  if (!figure) {
    Plotly.purge(place);
    place.textContent = "Not measured in this run.";
    return;
  }
  if (!place.classList.contains("js-plotly-plot")) place.textContent = "";
  const style = getComputedStyle(byId("title"));
  const axis = { gridcolor: style.borderBottomColor, zerolinecolor: style.borderBottomColor, automargin: true, title: { standoff: 10 } };
  const colorway = ["#4c8dd9", "#e08a3c", "#3fa796", "#c85f8e", "#8f77d6", "#9a9a3a", "#d0605e", "#5ba3b0"];
  const own = { paper_bgcolor: "transparent", plot_bgcolor: "transparent", colorway, xaxis: axis, yaxis: axis,
    font: { family: style.fontFamily, color: style.color, size: 12 }, margin: { l: 50, r: 12, t: 12, b: 44 },
    legend: { orientation: "h", y: 1, yanchor: "bottom" } };
  Plotly.react(place, figure.data, { ...figure.layout, template: { layout: own } }, { responsive: true, displayModeBar: false });
}

/* The row's own point in the scatter is a large one. */
function marked(figure, id) {
  if (!figure) return figure;
  const data = figure.data.map((trace) => ({ ...trace, marker: { size: trace.ids.map((x) => (x === id ? 18 : 8)) } }));
  return { ...figure, data };
}

function showRun() {
  const run = shown.detail.runs[byId("run").selectedIndex];
  byId("command").textContent = run.command;
  byId("copy").textContent = "Copy";
  fill("environment", run.environment);
  draw("matrix", run.matrix);
  draw("forgotten", run.forgotten);
}

function showFigures() {
  if (!shown) return;
  showRun();
  draw("over_time", shown.detail.over_time);
  draw("cost", marked(shown.cost, shown.id));
}

async function showRow() {
  const id = location.hash.slice(1);
  const row = leaderboard.rows.find((candidate) => candidate.id === id);
  byId("list").hidden = Boolean(row);
  byId("detail").hidden = !row;
  shown = null;
  delete root.dataset.shown;
  if (!row) {
    if (id === "results") (document.querySelector(`#table a[href="#${last}"]`) ?? byId("results")).focus();
    return;
  }
  last = id;
  byId("title").textContent = row.setting ? `${row.method} (${row.setting})` : row.method;
  byId("protocol").textContent = [...place(row), row.budget].join(" · ");
  byId("problem").textContent = "";
  scrollTo(0, 0);
  byId("title").focus({ preventScroll: true });
  try {
    await Promise.all([load(row.shard), load("plotly.js")]);
  } catch (error) {
    byId("problem").textContent = `${error.message}: build the page again.`;
    return;
  }
  if (location.hash.slice(1) !== id) return;
  const { rows, cost, machines } = leaderboard.shards[row.shard];
  shown = { id, detail: rows[id], cost };
  byId("run").replaceChildren(...rows[id].runs.map(({ name }) => element("option", name)));
  byId("scores").replaceChildren(...rows[id].scores.map(tile));
  byId("notes").replaceChildren(...rows[id].notes.map((note) => element("p", note, { className: "note" })));
  byId("machines").textContent = machines.join("; ");
  fill("settings", rows[id].settings);
  showFigures();
  root.dataset.shown = id;
}

/* Theme */

function remembered(value) {
  try { /* a page opened from a file may be refused the storage */
    if (value !== undefined) localStorage.setItem("theme", value);
    return localStorage.getItem("theme") ?? "";
  } catch (error) {
    return value ?? "";
  }
}

function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
  showFigures();
}

byId("theme").value = remembered();
setTheme(byId("theme").value);
byId("theme").addEventListener("change", ({ target }) => setTheme(remembered(target.value)));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showFigures);
byId("run").addEventListener("change", showRun);
byId("copy").hidden = !navigator.clipboard; // a page served without encryption has none
byId("copy").addEventListener("click", async ({ target }) => {
  await navigator.clipboard.writeText(byId("command").textContent);
  target.textContent = "Copied";
});
addEventListener("hashchange", showRow);
if (leaderboard.rows.length) showTable();
showRow();
