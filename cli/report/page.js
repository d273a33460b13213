// The page's behaviour: charts in the page's own colours, tables that sort and filter.  Asks nobody for anything.
"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };

  // "var(--name)" anywhere in a figure becomes the page's colour of that name.
  function colored(value, style) {
    if (typeof value === "string") {
      const found = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return found ? style.getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => colored(item, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, colored(item, style)]));
    return value;
  }

  function drawn(name, node) {
    const style = getComputedStyle(document.documentElement);
    const of = (variable) => style.getPropertyValue(variable).trim();
    const figure = colored(figures[name], style);
    const axis = { gridcolor: of("--grid"), linecolor: of("--grid"), zerolinecolor: of("--grid"), automargin: true, fixedrange: false };
    const given = figure.layout;
    const narrow = node.clientWidth < 480;
    const layout = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: narrow ? 44 : 56, r: 10, t: 10, b: 40 },
      font: { color: of("--ink"), size: narrow ? 11 : 12, family: "system-ui, sans-serif" },
      legend: { orientation: "h", traceorder: "normal", y: -0.18, yref: "paper", yanchor: "top", x: 0 },
      hoverlabel: { bgcolor: of("--card"), bordercolor: of("--grid"), font: { color: of("--ink") } },
      ...given, xaxis: { ...axis, ...given.xaxis }, yaxis: { ...axis, ...given.yaxis },
    };
    const room = Math.max(90, layout.height - 80);
    layout.legend.y = -62 / room;
    const rows = Math.ceil((given.showlegend === false ? 0 : figure.data.length) / (narrow ? 2 : 4));
    layout.margin.b = 52 + 20 * rows;
    layout.height += 20 * rows;
    if (narrow) for (const trace of figure.data) if (trace.mode === "markers+text") trace.mode = "markers";
    Plotly.react(node, figure.data, layout, config);
  }

  const nodes = [...document.querySelectorAll(".plot")];
  const draw = () => nodes.forEach((node) => drawn(node.dataset.figure, node));
  draw();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  document.documentElement.dataset.drawn = String(nodes.length);

  for (const table of document.querySelectorAll("table.sorted")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") === "descending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
        const number = [...body.rows].every((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
        const order = (a, b) => (number ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b)));
        body.append(...[...body.rows].sort((a, b) => (up ? order(a, b) : order(b, a))));
      });
    });
    const search = document.querySelector(`input[data-filters="${table.id}"]`);
    const count = document.querySelector(`[data-counts="${table.id}"]`);
    if (!search) continue;
    search.addEventListener("input", () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = [...row.cells].map((cell) => cell.textContent.toLowerCase()).join(" ");
        const tokens = new Set(text.split(/[^a-z0-9]+/));
        row.hidden = !words.every((word) => (/^\d+$/.test(word) ? tokens.has(word) : text.includes(word))); // a number is a whole one
        shown += row.hidden ? 0 : 1;
      }
      if (count) count.textContent = `${shown} of ${body.rows.length}`;
    });
  }
})();
