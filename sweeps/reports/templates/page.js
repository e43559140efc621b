"use strict";
// Plots name colours by CSS variables. They are looked up again when the colour scheme changes.
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;

function coloured(node, style) {
  if (typeof node === "string" && node.startsWith("var(")) return style.getPropertyValue(node.slice(4, -1)).trim();
  if (Array.isArray(node)) return node.map(item => coloured(item, style));
  if (node && typeof node === "object")
    return Object.fromEntries(Object.entries(node).map(([key, value]) => [key, coloured(value, style)]));
  return node;
}

function draw() {
  const style = getComputedStyle(document.documentElement), base = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
    font: {family: getComputedStyle(document.body).fontFamily, size: 13, color: "var(--ink)"},
    margin: {l: 92, r: 12, t: 14, b: 48},
    legend: {orientation: "h", y: -0.16, yanchor: "top", x: 0, font: {color: "var(--ink)"}},
    hoverlabel: {bgcolor: "var(--panel)", bordercolor: "var(--line)", font: {color: "var(--ink)"}},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: "var(--muted)", activecolor: "var(--ink)"},
    dragmode: touch ? false : "zoom",  // a finger scrolls the page
  };
  const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};
  for (const div of document.querySelectorAll(".plot")) {
    div.figure ??= JSON.parse(div.querySelector("script").textContent);
    div.style.height = `${div.figure.layout.height}px`;
    const {data, layout} = coloured({data: div.figure.data, layout: {...base, ...div.figure.layout}}, style);
    if (div.clientWidth < 520 && layout.yaxis?.title) {  // on a phone the text above the plot names the axis
      layout.yaxis.title = {text: ""};
      layout.margin.l -= 20;
    }
    if (!div.classList.contains("js-plotly-plot")) div.replaceChildren();
    Plotly.react(div, data, layout, config);
  }
}

// A click on a heading of a table sorts its rows. The number of rows that are folded away stays the same.
function sortBy(table, column) {
  const heads = table.querySelectorAll("thead tr"), head = heads[0].children[column];
  const up = head.getAttribute("aria-sort") === "descending" || !head.hasAttribute("aria-sort") && !head.classList.contains("number");
  for (const row of heads)
    [...row.children].forEach((cell, at) => at === column
      ? cell.setAttribute("aria-sort", up ? "ascending" : "descending") : cell.removeAttribute("aria-sort"));
  const bodies = [...table.querySelectorAll("tbody")], sizes = bodies.map(body => body.rows.length);
  const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
  const empty = text => text === "" || text === "nan";
  const rows = bodies.flatMap(body => [...body.rows]).sort((first, second) => {
    const a = key(first), b = key(second);
    if (empty(a) || empty(b)) return empty(a) - empty(b);  // empty cells last, in both directions
    const numbers = a - b, order = Number.isNaN(numbers) ? a.localeCompare(b) : numbers;
    return up ? order : -order;
  });
  bodies.forEach((body, at) => body.append(...rows.splice(0, sizes[at])));
}

for (const table of document.querySelectorAll(".sortable"))
  for (const head of table.querySelectorAll("thead tr"))
    [...head.children].forEach((cell, column) => {
      const button = document.createElement("button");
      button.append(...cell.childNodes);
      button.addEventListener("click", () => sortBy(table, column));
      cell.append(button);
    });

for (const note of document.querySelectorAll(".without")) note.remove();  // they say what is missing without JavaScript
draw();
dark.addEventListener("change", () => draw());
function print(starts) {
  document.documentElement.classList.toggle("printing", starts);
  draw();
  for (const div of document.querySelectorAll(".plot")) Plotly.Plots.resize(div);
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll(".sortable details")) details.open = true;
  print(true);
});
addEventListener("afterprint", () => print(false));
