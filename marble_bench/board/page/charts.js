const HUES = 8;
const DASHES = ["", "7 4", "2 3", "10 3 2 3"];
const hue = (index) => `var(--c${index % HUES})`;
const dash = (index) => DASHES[Math.floor(index / HUES) % DASHES.length];
/* Measured rows take the first hues, so that they are told apart first. */
const HUED = [...ROWS].sort((a, b) => (a.kind === "measured" ? 0 : 1) - (b.kind === "measured" ? 0 : 1));
const hueOf = (row) => HUED.indexOf(row);

/* Round numbers between two values, about `count` of them. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(10)));
  return found;
}

/* Heat: from the page's own two colours, with the ink that reads better on the mix. */
function heat(share) {
  const style = getComputedStyle(document.documentElement);
  const [low, high] = ["--heat-low", "--heat-high"].map((name) => style.getPropertyValue(name).split(",").map(Number));
  const mix = low.map((value, index) => Math.round(value + share * (high[index] - value)));
  const linear = mix.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  return `--cell:rgb(${mix.join(",")});color:${light > 0.179 ? "#000" : "#fff"}`;  // where both have 4.58 to 1
}

const ATLAS = { row: null };
const recordsOf = (rowId) => DATA.records.filter((record) => record.row === rowId);

function drawAtlas() {
  const records = recordsOf(ATLAS.row).filter((record) => record.layers);
  const names = [...new Set(records.flatMap((record) => record.layers.map((layer) => layer.layer)))];
  /* a separator has a probe for each stem of each seed */
  const chosenBy = (record, layer) => {
    const all = record.record.selection.per_seed;
    return `chosen by ${layer.chosen} of ${all.length} ${all[0].stem ? "probes, one for each seed and stem" : "seeds"}`;
  };
  const ranges = records.map((record) => {
    const values = record.layers.map((layer) => layer.valid).filter((value) => value !== null);
    return [Math.min(...values), Math.max(...values)];
  });
  const unit = (record) => record.record.scores[record.record.selection.metric].unit === "dB" ? "dB" : "%";
  const point = (record, value) => shown(value * (unit(record) === "dB" ? 1 : 100), unit(record));
  const cell = (record, index, name) => {
    const layer = record.layers.find((each) => each.layer === name);
    if (!layer || layer.valid === null) return h("td", {}, "");
    const [low, high] = ranges[index];
    const best = layer.valid === high;
    return h("td", { class: best ? "best" : null, style: heat(high > low ? (layer.valid - low) / (high - low) : 1),
      "data-layer": name, "data-task": record.task },
      point(record, layer.valid),
      h("small", {}, layer.sd === null ? "" : `± ${point(record, layer.sd)}`,
        layer.chosen ? h("span", { class: "dots", title: chosenBy(record, layer) }, " " + "●".repeat(layer.chosen)) : ""),
      best ? h("span", { class: "live" }, "best layer") : "", layer.chosen ? h("span", { class: "live" }, chosenBy(record, layer)) : "");
  };
  $("atlas-table").replaceChildren(h("table", { class: "heat" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "row" }, "Layer"),
      records.map((record) => h("th", { scope: "col" }, record.task, h("span", { class: "tag" }, `${record.record.selection.metric} ${unit(record)}`))))),
    h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row", class: "row" }, name),
      records.map((record, index) => cell(record, index, name)))))));
}

function atlas() {
  const rows = ROWS.filter((row) => recordsOf(row.id).some((record) => record.layers));
  if (!rows.length) return;
  $("atlas").hidden = false;
  const most = [...rows].sort((a, b) => layerCount(b) - layerCount(a))[0];
  ATLAS.row = most.id;
  $("atlas-controls").append(select("Model", rows.map((row) => [row.id, labelOf(row)]), most.id, (value) => { ATLAS.row = value; drawAtlas(); }));
  drawAtlas();
}
const layerCount = (row) => Math.max(0, ...recordsOf(row.id).map((record) => (record.layers || []).length));

const PICKED = new Set();

function drawProfile() {
  const columns = LEAD.filter((column) => ROWS.some((row) => cellOf(row, column)));
  /* the names of the first and last axis reach half their length beyond them */
  const left = Math.max(60, ...[columns[0], columns[columns.length - 1]].map((column) => 8 + 3.9 * column.task.length));
  const [top, tall] = [58, 250];
  const gap = Math.max(74, Math.min(280, ($("profile").clientWidth - 2 * left - 10) / Math.max(1, columns.length - 1)));
  const width = left * 2 + gap * (columns.length - 1), height = top + tall + 44;
  const ranges = columns.map((column) => domain([column]));
  const x = (index) => left + gap * index;
  const y = (index, value) => top + tall * (1 - (value - ranges[index][0]) / (ranges[index][1] - ranges[index][0]));
  const axes = columns.map((column, index) => s("g", {},
    s("line", { class: "axis", x1: x(index), x2: x(index), y1: top, y2: top + tall }),
    s("text", { class: "name", x: x(index), y: index % 2 ? 16 : 32, "text-anchor": "middle" }, column.task),
    s("text", { x: x(index), y: top - 6, "text-anchor": "middle" }, shown(ranges[index][1], column.unit)),
    s("text", { x: x(index), y: top + tall + 16, "text-anchor": "middle" }, shown(ranges[index][0], column.unit)),
    s("text", { x: x(index), y: top + tall + 32, "text-anchor": "middle" }, `${column.short} ${column.unit}`)));
  const lines = ROWS.filter((row) => PICKED.has(row.id)).map((row) => {
    let path = "", on = false;
    const dots = [];
    columns.forEach((column, index) => {
      const cell = cellOf(row, column);
      if (!cell) { on = false; return; }
      path += `${on ? "L" : "M"}${x(index)},${y(index, cell.v).toFixed(1)}`;
      on = true;
      dots.push(s("circle", { class: "dot", cx: x(index), cy: y(index, cell.v).toFixed(1), r: 4 }, s("title", {}, `${labelOf(row)}, ${column.task}: ${cell.t}`)));
    });
    return s("g", { style: `color:${hue(hueOf(row))}` }, s("path", { class: "line", d: path, "stroke-dasharray": dash(hueOf(row)) || null }), dots);
  });
  const names = ROWS.filter((row) => PICKED.has(row.id)).map(labelOf).join(", ");
  $("profile-chart").replaceChildren(s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `Profiles of ${names || "no model"} over ${columns.length} tasks; the board above has the numbers` }, axes, lines));
}

function profile() {
  const able = ROWS.filter((row) => LEAD.some((column) => cellOf(row, column)));
  const first = able.some((row) => row.kind === "measured") ? able.filter((row) => row.kind === "measured") : able;
  first.slice(0, 4).forEach((row) => PICKED.add(row.id));
  $("profile-picks").append(...able.map((row) => h("label", {},
    h("input", { type: "checkbox", checked: PICKED.has(row.id), onchange: (event) => {
      if (event.target.checked) PICKED.add(row.id); else PICKED.delete(row.id);
      drawProfile();
    } }),
    h("span", { class: "swatch", style: `border-top-color:${hue(hueOf(row))};border-top-style:${dash(hueOf(row)) ? "dashed" : "solid"}` }),
    labelOf(row) + (row.kind === "published" ? ` (${row.mark})` : ""))));
  drawProfile();
}

const COST = { x: null, y: null };
const COST_WORDS = { parameters: "parameters", real_time_factor: "seconds of audio encoded per second", peak_memory_mb: "peak memory, MB",
  feature_mb: "features, MB", probe_s: "seconds for the probes" };

function drawCost() {
  const column = COST.y === "mean" ? MEAN : COLUMNS.find((each) => each.id === COST.y);
  const points = ROWS.filter((row) => row.cost && row.cost[COST.x] !== null && cellOf(row, column))
    .map((row) => ({ row, x: row.cost[COST.x], cell: cellOf(row, column) }));
  const [left, right, top, tall] = [56, 150, 22, 300];
  const width = Math.max(560, Math.min(1000, $("cost").clientWidth - 4)), wide = width - left - right, height = top + tall + 56;
  if (!points.length) { $("cost-chart").replaceChildren(h("p", { class: "say", style: "padding:1rem" }, "No record has both.")); return; }
  /* zero parameters are at the left end of a logarithmic axis, on a place of their own */
  const positive = points.map((point) => point.x).filter((value) => value > 0);
  const zero = positive.length < points.length;
  const [least, most] = positive.length ? [Math.min(...positive), Math.max(...positive)] : [1, 10];
  const low = Math.log10(least) - 0.15, high = Math.max(Math.log10(most) + 0.15, low + 0.3);
  const start = left + (zero ? 70 : 10);
  const x = (value) => (value > 0 ? start + ((Math.log10(value) - low) / (high - low)) * (left + wide - start) : left + 24);
  const values = points.flatMap((point) => [point.cell.v, ...(point.cell.ci || [])]);
  const pad = (Math.max(...values) - Math.min(...values)) * 0.06 || 1;
  const [bottom, ceiling] = [Math.min(...values) - pad, Math.max(...values) + pad];
  const y = (value) => top + tall * (1 - (value - bottom) / (ceiling - bottom));
  const marks = [];
  for (let power = Math.floor(low); power <= Math.ceil(high); power++) for (const factor of [1, 2, 5]) {
    const value = factor * 10 ** power;
    if (Math.log10(value) >= low && Math.log10(value) <= high && (high - low < 2 || factor === 1)) marks.push(value);
  }
  if (marks.length < 2) marks.splice(0, marks.length, ...ticks(10 ** low, 10 ** high, 4));  // costs that are close together
  const grid = [
    ...ticks(bottom, ceiling, 5).map((value) => s("g", {}, s("line", { class: "grid", x1: left, x2: left + wide, y1: y(value), y2: y(value) }),
      s("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)))),
    ...marks.map((value) => s("g", {}, s("line", { class: "grid", x1: x(value), x2: x(value), y1: top, y2: top + tall }),
      s("text", { x: x(value), y: top + tall + 18, "text-anchor": "middle" }, plain(value)))),
    zero ? s("text", { x: x(0), y: top + tall + 18, "text-anchor": "middle" }, "0") : "",
    s("line", { class: "axis", x1: left, x2: left + wide, y1: top + tall, y2: top + tall }),
    s("text", { class: "name", x: left + wide / 2, y: top + tall + 42, "text-anchor": "middle" }, COST_WORDS[COST.x]),
    s("text", { class: "name", x: left, y: 12 }, `${column.task}, ${column.short} ${column.unit}`),
  ];
  /* a name is right of its point, or left, above, below: where it meets no other name and no point */
  const boxes = points.map((point) => [x(point.x) - 7, y(point.cell.v) - 7, x(point.x) + 7, y(point.cell.v) + 7]);
  const meets = (box) => boxes.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
  const drawn = [...points].sort((a, b) => y(a.cell.v) - y(b.cell.v)).map((point) => {
    const [cx, cy] = [x(point.x), y(point.cell.v)], long = labelOf(point.row).length * 7.2;
    const places = [[10, 4, "start", 0], [-10, 4, "end", -long], [0, -11, "middle", -long / 2], [0, 19, "middle", -long / 2], [10, 19, "start", 0], [10, 34, "start", 0]];
    const boxAt = ([dx, dy, , shift]) => [cx + dx + shift, cy + dy - 10, cx + dx + shift + long, cy + dy + 3];
    const place = places.find((each) => !meets(boxAt(each))) || places[0];
    boxes.push(boxAt(place));
    const tip = `${labelOf(point.row)}: ${point.cell.t}${point.cell.ci_t ? ` (${point.cell.ci_t.join(" to ")})` : ""}, ${plain(point.x)} ${COST_WORDS[COST.x]}`;
    return s("g", { style: `color:${hue(hueOf(point.row))}` },
      point.cell.ci ? s("line", { class: "whisker", x1: cx, x2: cx, y1: y(point.cell.ci[0]), y2: y(point.cell.ci[1]) }) : "",
      s("circle", { class: "dot", cx, cy, r: 5.5 }, s("title", {}, tip)), s("text", { class: "name", x: cx + place[0], y: cy + place[1], "text-anchor": place[2] }, labelOf(point.row)));
  });
  $("cost-chart").replaceChildren(s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${column.task} score against ${COST_WORDS[COST.x]}; the table below has the numbers` }, grid, drawn));
}

function cost() {
  const rows = ROWS.filter((row) => row.cost);
  if (!rows.length) return;
  $("cost").hidden = false;
  const kinds = Object.keys(DATA.costs).filter((name) => rows.some((row) => row.cost[name] !== null));
  const columns = [...(MEAN ? [MEAN] : []), ...LEAD].filter((column) => rows.some((row) => cellOf(row, column)));
  COST.x = kinds.includes("real_time_factor") ? "real_time_factor" : kinds[0];
  COST.y = columns[0].id;
  $("cost-controls").append(
    select("Score", columns.map((column) => [column.id, column.set ? `mean of ${column.set}` : column.task]), COST.y, (value) => { COST.y = value; drawCost(); }),
    select("Cost", kinds.map((name) => [name, COST_WORDS[name]]), COST.x, (value) => { COST.x = value; drawCost(); }));
  $("cost-table").append(h("table", {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "row" }, "Model"), kinds.map((name) => h("th", { scope: "col" }, COST_WORDS[name])))),
    h("tbody", {}, rows.map((row) => h("tr", { class: "measured" }, h("th", { scope: "row", class: "row" }, labelOf(row)),
      kinds.map((name) => h("td", { "data-cost": name, "data-row": row.id }, plain(row.cost[name]))))))));
  drawCost();
}

const FEW = { task: null };

function drawFew() {
  const curves = DATA.curves.filter((curve) => curve.task === FEW.task);
  const unit = curves[0].unit;
  const scale = unit === "dB" ? 1 : 100;
  const [left, right, top, tall] = [56, 150, 22, 280];
  const width = Math.max(560, Math.min(1000, $("few").clientWidth - 4)), wide = width - left - right, height = top + tall + 56;
  const counts = [...new Set(curves.flatMap((curve) => curve.points.map((point) => point.n)))].sort((a, b) => a - b);
  const values = curves.flatMap((curve) => curve.points.flatMap((point) => [point.v, ...(point.ci || [])])).map((value) => value * scale);
  const [bottom, ceiling] = [Math.min(...values), Math.max(...values)];
  const span = ceiling - bottom || 1;
  const [first, last] = [Math.log(Math.max(counts[0], 1e-9)), Math.log(counts[counts.length - 1])];
  const x = (value) => left + (wide * (Math.log(Math.max(value, 1e-9)) - first)) / (last - first || 1);
  const y = (value) => top + tall * (1 - (value - bottom) / span);
  const grid = [...ticks(bottom, ceiling, 5).map((value) => s("g", {}, s("line", { class: "grid", x1: left, x2: left + wide, y1: y(value), y2: y(value) }),
    s("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)))),
    ...counts.map((value) => s("text", { x: x(value), y: top + tall + 18, "text-anchor": "middle" }, plain(value))),
    s("line", { class: "axis", x1: left, x2: left + wide, y1: top + tall, y2: top + tall }),
    s("text", { class: "name", x: left + wide / 2, y: top + tall + 42, "text-anchor": "middle" }, "training clips"),
    s("text", { class: "name", x: left, y: 12 }, `${FEW.task}, ${curves[0].metric} ${unit}`)];
  const taken = [];
  const reached = (curve) => curve.points[curve.points.length - 1].v;
  const drawn = [...curves].sort((a, b) => reached(b) - reached(a)).map((curve) => {
    const row = ROWS.find((each) => each.id === curve.row);
    const points = curve.points.map((point) => ({ ...point, at: [x(point.n), y(point.v * scale)] }));
    let at = points[points.length - 1].at[1] + 4;
    while (taken.some((other) => Math.abs(other - at) < 14)) at += 14;
    taken.push(at);
    return s("g", { style: `color:${hue(hueOf(row))}` },
      points.map((point) => (point.ci ? s("line", { class: "whisker", x1: point.at[0], x2: point.at[0], y1: y(point.ci[0] * scale), y2: y(point.ci[1] * scale) }) : "")),
      s("path", { class: "line", d: points.map((point, index) => `${index ? "L" : "M"}${point.at.join(",")}`).join(""), "stroke-dasharray": dash(hueOf(row)) || null }),
      points.map((point) => s("circle", { class: "dot", cx: point.at[0], cy: point.at[1], r: 4 }, s("title", {}, `${labelOf(row)}, ${point.n} clips: ${shown(point.v * scale, unit)}`))),
      s("text", { class: "name", x: left + wide + 8, y: at }, labelOf(row)));
  });
  $("few-chart").replaceChildren(s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Few-shot curves on ${FEW.task}` }, grid, drawn));
}

function few() {
  const tasks = [...new Set(DATA.curves.map((curve) => curve.task))];
  if (!tasks.length) return;
  $("few").hidden = false;
  FEW.task = tasks[0];
  $("few-controls").append(select("Task", tasks.map((task) => [task, task]), tasks[0], (value) => { FEW.task = value; drawFew(); }));
  drawFew();
}
