const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/* Every text goes in as text, never as markup. */
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== "") node.append(child);
  return node;
}
const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

const COLUMNS = DATA.tasks.flatMap((task) => task.columns.map((column) => ({ ...column, task: task.name, asks: task.asks })));
const LEAD = COLUMNS.filter((column) => column.lead);
const SETS = new Map(DATA.sets.map((set) => [set.name, set]));
const meanOf = (set) => ({ id: "mean", set, task: set, short: "mean", unit: "%", higher: true });
const MEAN = DATA.own ? meanOf(DATA.own) : null;
const ROWS = DATA.rows.filter((row) => row.kind !== "floor");
const cellOf = (row, column) => (column.set ? row.means[column.set] : row.cells[column.id]) || null;
const labelOf = (row) => {
  const twice = row.kind === "measured" && ROWS.filter((other) => other.model === row.model && other.kind === "measured").length > 1;
  return twice ? `${row.model} (${row.weights})` : row.model;
};
const sourceOf = (row) => ({ measured: "measured", floor: "floor" }[row.kind] || `published, ${row.mark}`);

/* Numbers as the terminal shows them: a value in points, percent with one decimal, decibels with two. */
const shown = (value, unit) => value.toFixed(unit === "dB" ? 2 : 1).replace(/^-(0\.0+)$/, "$1");
const plain = (value) => {
  if (value === null || value === undefined) return "";
  if (Math.abs(value) >= 1e6) return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 0)} M`;
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(3)));
};

function domain(columns) {
  let low = Infinity, high = -Infinity;
  for (const column of columns) for (const row of ROWS) {
    const cell = cellOf(row, column);
    if (!cell) continue;
    for (const value of [cell.v, ...(row.kind === "measured" && cell.ci ? cell.ci : [])]) {
      low = Math.min(low, value); high = Math.max(high, value);
    }
  }
  return low < high ? [low, high] : [low - 1, low + 1];
}

function select(label, choices, chosen, change) {
  const box = h("select", { onchange: () => change(box.value) },
    choices.map(([value, text]) => h("option", { value, selected: value === chosen }, text)));
  return h("label", {}, label, box);
}
