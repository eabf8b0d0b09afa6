const facts = (pairs) => h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
  .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, String(value))]));

function table(heads, rows) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads.join(", ") }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((head, index) => h("th", { scope: "col", class: index ? null : "row" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((text, index) => (index ? h("td", {}, text) : h("th", { scope: "row", class: "row" }, text))))))));
}

/* Of a grid: layers down, learning rates across, or where there is one alone the numbers that vary most, such as penalties;
   of each the best over all else that was tried, the mean over seeds. */
function gridHeat(each, point) {
  const { axes, layer, seed, valid } = each.grid;
  const count = (axis) => new Set(each.grid[axis]).size;
  const able = axes.filter((axis) => typeof each.grid[axis][0] === "number" && count(axis) > 1).sort((a, b) => count(b) - count(a));
  const across = able.includes("learning_rate") || !able.length ? (each.grid.learning_rate ? "learning_rate" : "half") : able[0];
  const rate = each.grid[across];
  const groups = new Map();
  layer.forEach((_, index) => {
    if (valid[index] === null) return;
    const key = JSON.stringify(axes.map((axis) => each.grid[axis][index]));
    if (!groups.has(key)) groups.set(key, { place: JSON.stringify([layer[index], rate[index]]), values: [] });
    groups.get(key).values.push(valid[index]);
  });
  const best = new Map();
  for (const { place, values } of groups.values()) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    if (!best.has(place) || best.get(place) < mean) best.set(place, mean);
  }
  const more = axes.filter((axis) => !["layer", across].includes(axis) && count(axis) > 1);
  const names = [...new Set(layer)], rates = [...new Set(rate)].sort((a, b) => a - b);
  const values = [...best.values()], low = Math.min(...values), high = Math.max(...values);
  const seeds = new Set(seed).size;
  return [h("p", { class: "say" }, `Validation score by layer and ${across.replaceAll("_", " ")}, mean over ${seeds} seed${seeds > 1 ? "s" : ""}` +
    (more.length ? `, the best of each over ${more.join(", ").replaceAll("_", " ")}.` : ".")),
  h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "grid" }, h("table", { class: "heat" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "row" }, "Layer"), rates.map((value) => h("th", { scope: "col" }, String(value))))),
    h("tbody", {}, names.map((name) => h("tr", {}, h("th", { scope: "row", class: "row" }, name), rates.map((value) => {
      const found = best.get(JSON.stringify([name, value]));
      return found === undefined ? h("td", {}, "diverged")
        : h("td", { style: heat(high > low ? (found - low) / (high - low) : 1), class: found === high ? "best" : null }, point(found));
    }))))))];
}

/* What the chosen probes lose on changed test clips, by this record or by another of the same weights, clips and task. */
function changed(each, id) {
  if (!each.perturbed) return [];
  const rows = each.perturbed.rows.map((row) => [row.name, row.metric, row.clean ?? "n/a", row.test ?? "n/a", row.drop ?? "n/a",
    row.ci.map((bound) => bound ?? "n/a").join(" to "),
    row.clips + (row.left_out ? ` (${row.left_out} left out)` : "")]);
  return [h("h3", {}, "Changed test clips"), table(["perturbation", "score", "unchanged", "changed", "drop", "95 %", "clips"], rows),
    each.perturbed.record === id ? "" : h("p", { class: "say" }, `From ${each.perturbed.record}.`)];
}

function openDetail(id) {
  const each = DATA.records.find((record) => record.id === id);
  if (!each) return;
  const record = each.record, main = record.selection.metric;
  const row = ROWS.find((one) => one.id === each.row);
  const scale = (score) => (score.unit === "fraction" ? 100 : 1);
  const text = (value, score) => (value === null || value === undefined ? "n/a" : shown(value * scale(score), score.unit));
  const mainScore = record.scores[main];
  const dialog = $("detail");
  const cell = (name) => row && row.cells[`${each.task}/${name}`];
  const scores = Object.entries(record.scores).map(([name, score]) => [
    name + (score.main ? " (main)" : ""), text(score.test, score), score.ci95.map((bound) => text(bound, score)).join(" to "),
    (cell(name) || {}).ties || "", score.per_seed.map((value) => text(value, score)).join(", "), text(score.valid, score), text(score.trivial, score)]);
  const axes = [...new Set(record.selection.per_seed.flatMap(Object.keys))];
  const chosen = record.selection.per_seed.map((one) => axes.map((axis) => (axis === "valid" ? text(one.valid, mainScore) : String(one[axis] ?? ""))));
  const full = () => {
    const grid = each.grid;
    const order = grid.valid.map((_, index) => index).sort((a, b) => (grid.valid[b] ?? -Infinity) - (grid.valid[a] ?? -Infinity));
    return table([...grid.axes.map((axis) => axis.replaceAll("_", " ")), "seed", "valid", record.retrieval ? "by itself, not ranked" : "best epoch"], order.map((index) => [
      ...grid.axes.map((axis) => String(grid[axis][index])), String(grid.seed[index]),
      grid.valid[index] === null ? "diverged" : text(grid.valid[index], mainScore), record.retrieval ? text(grid.own[index], mainScore) : String(grid.epoch[index])]));
  };
  const all = each.grid && h("details", { ontoggle: (event) => { if (event.target.open && event.target.children.length === 1) event.target.append(full()); } },
    h("summary", {}, record.retrieval ? "All layers" : `All ${record.selection.probes} probes`));
  const against = row ? Object.values(row.cells).filter((one) => one.record === id).flatMap((one) => one.against || []) : [];
  const clips = Object.entries(record.data.clips).map(([split, count]) => `${count.toLocaleString("en")} ${split}`).join(", ");
  dialog.replaceChildren(...[
    h("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
    h("h2", { id: "detail-h" }, `${record.model.name} on ${record.task.name}`),
    h("p", { class: "say" }, record.comparable ? "Comparable." : `Not comparable: ${record.why_not.join("; ")}.`),
    h("h3", {}, "Scores"), table(["score", "test", "95 %", "ties", "by seed", "valid", "trivial"], scores),
    against.length ? h("p", { class: "say" }, against.map((one) => `${one.d_t} to ${one.t} of ${one.mark} (${one.verdict})`).join("; ")) : "",
    ...changed(each, id),
    h("h3", {}, record.retrieval ? "The layer that other items chose" : "The probe that validation chose"), table(axes.map((axis) => axis.replaceAll("_", " ")), chosen),
    each.grid ? h("h3", {}, "Grid") : "", each.grid ? gridHeat(each, (value) => text(value, mainScore)) : h("p", { class: "say" }, "The grid is not beside this record."),
    all || "",
    h("h3", {}, "Facts"), facts([
      ["Record", id], ["Protocol", `${record.protocol.name} ${record.protocol.version}`], ["Task version", record.task.version],
      ["Weights", record.model.source], ["Weights sha256", record.model.weights_sha256], ["Parameters", plain(record.model.parameters)],
      ["Licence", record.model.license], ["Trained on", record.model.training_data.join(", ") || "not stated"],
      ["Corpus", record.data.corpus], ["Data fingerprint", record.data.fingerprint], ["Clips", clips],
      ["Left out", [...record.data.missing, ...record.data.faults.map((fault) => `${fault.clip}: ${fault.why}`)].join("; ")],
      ["Warnings", (record.data.marks || []).join("; ")],
      ["Audio encoded", `${plain(record.cost.audio_s)} s in ${plain(record.cost.extract_s)} s`], ["Peak memory", `${plain(record.cost.peak_memory_mb)} MB`],
      ["Features", `${plain(record.cost.feature_mb)} MB`], ["Probes", `${plain(record.cost.probe_s)} s`],
      ["Suite", record.suite.version + (record.suite.git ? `, ${record.suite.git.slice(0, 12)}${record.suite.dirty ? " and changes" : ""}` : "")],
      ["Environment", `Python ${record.environment.python}, torch ${record.environment.torch}, ${record.environment.device}`],
    ]),
  ].flat().filter(Boolean));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}
