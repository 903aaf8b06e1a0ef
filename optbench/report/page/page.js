// The page's plots, filters and tables. Every number was computed by optbench: a filter only decides which of them show.
// `data.points` are configurations, best first: of those that pass the filters, the first one is the best.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { axes, points, fresh, curves, plots, styles } = data;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const isLoss = data.score.endsWith("loss");
  const everything = points.n.map((_, i) => i);

  // ---------------------------------------------------------------- state, which the address holds

  const defaults = () => ({
    by: data.by, top: data.top, train: false, bands: true, full: false, of: null,
    chosen: axes.map((axis) => new Set(axis.values.keys())),
  });
  let state = defaults();
  const isFull = (a) => state.chosen[a].size === axes[a].values.length;

  function toHash() {
    const entries = [];
    axes.forEach((axis, a) => {
      if (isFull(a)) return;
      const out = axis.values.map((_, v) => v).filter((v) => !state.chosen[a].has(v));
      const isShorter = out.length < state.chosen[a].size;
      for (const v of isShorter ? out : state.chosen[a]) entries.push([(isShorter ? "not-" : "") + axis.name, axis.values[v]]);
      if (!state.chosen[a].size) entries.push([axis.name, ""]);
    });
    if (state.by !== data.by) entries.push(["lines", axes[state.by].name]);
    if (state.top !== data.top) entries.push(["top", state.top]);
    if (state.train) entries.push(["train", 1]);
    if (!state.bands) entries.push(["bands", 0]);
    if (state.full) entries.push(["full", 1]);
    if (state.of !== null) entries.push(["of", axes[state.by].values[state.of]]);
    return new URLSearchParams(entries).toString();
  }

  function fromHash(hash) {
    const asked = new URLSearchParams(hash), next = defaults();
    axes.forEach((axis, a) => {
      const codes = (key) => asked.getAll(key).map((text) => axis.values.indexOf(text)).filter((v) => v >= 0);
      if (asked.has(axis.name)) next.chosen[a] = new Set(codes(axis.name));
      codes("not-" + axis.name).forEach((v) => next.chosen[a].delete(v));
    });
    const by = axes.findIndex((axis) => axis.name === asked.get("lines"));
    if (by >= 0) next.by = by;
    if (Number(asked.get("top")) > 0) next.top = Number(asked.get("top"));
    next.train = asked.has("train");
    next.bands = asked.get("bands") !== "0";
    next.full = asked.has("full");
    const of = axes[next.by].values.indexOf(asked.get("of"));
    next.of = of >= 0 ? of : null;
    return next;
  }

  // ---------------------------------------------------------------- which numbers show

  const isNumber = (value) => value !== null && Number.isFinite(value);

  /** The first of these points for each key: the best one. */
  function firsts(some, key) {
    const found = new Map();
    for (const i of some) if (!found.has(key(i))) found.set(key(i), i);
    return found;
  }

  /** Trials and diverged trials of these points for each key. */
  function sums(some, key) {
    const found = new Map();
    for (const i of some) {
      const sum = found.get(key(i)) ?? { trials: 0, diverged: 0 };
      sum.trials += points.trials[i];
      sum.diverged += points.diverged[i];
      found.set(key(i), sum);
    }
    return found;
  }

  /** What the filters leave: the points that pass, and which lines are drawn, best first. */
  function look() {
    const passing = everything.filter((i) => axes.every((_, a) => state.chosen[a].has(points.axes[a][i])));
    const isFresh = state.by === 0 && fresh.n.length > 0 && axes.every((_, a) => a === 0 || isFull(a));
    const scores = new Map();
    for (const [v, i] of firsts(passing, (i) => points.axes[state.by][i])) scores.set(v, isFresh ? null : points.score[i]);
    if (isFresh) fresh.optimizer.forEach((v, i) => state.chosen[0].has(v) && scores.set(v, fresh.score[i]));
    const cost = (v) => (isNumber(scores.get(v)) ? (isLoss ? 1 : -1) * scores.get(v) : Infinity);
    const all = [...scores.keys()].sort((v, w) => (cost(v) === cost(w) ? v - w : cost(v) - cost(w)));
    return { passing, isFresh, all, lines: all.slice(0, state.top) };
  }

  const describe = (source, i) =>
    [source.lr[i] === null ? "" : `lr=${source.lr[i]}`, source.configuration[i]].filter(Boolean).join(", ");

  /** The learning curve of each line's best configuration. */
  function learning({ passing, isFresh, lines }) {
    const best = firsts(passing, (i) => points.axes[state.by][i]), series = [], without = [];
    for (const v of lines) {
      const i = isFresh ? fresh.optimizer.indexOf(v) : best.get(v), source = isFresh ? fresh : points;
      const curve = curves[source.curve[i] ?? -1];
      if (!curve) { without.push(v); continue; }
      const about = curve.epoch.map(() => describe(source, i));
      for (const [split, isDashed] of [["val", false], ["train", true]])
        if (!isDashed || state.train)
          series.push({ v, isDashed, x: curve.epoch, n: curve.n, about, y: curve[split], low: curve[`${split}_low`], high: curve[`${split}_high`] });
    }
    const where = isFresh ? "on fresh seeds" : fresh.n.length ? "on the seeds that selected them" : "";
    const why = isFresh ? "not confirmed, or diverged" : "diverged, or not carried along";
    return { series, by: state.by, where, without, why };
  }

  /** For each line the score `name` of the best configuration at each value of x. */
  function over(name, x, order) {
    return ({ passing, lines }, taken) => {
      const by = state.by === taken ? 0 : state.by;
      const drawn = by === state.by ? lines : [...new Set(passing.map((i) => points.axes[0][i]))].sort((v, w) => v - w).slice(0, state.top);
      const some = passing.filter((i) => x(i) !== null), key = (i) => `${points.axes[by][i]} ${x(i)}`;
      const best = firsts(some, key), counts = sums(some, key);
      const series = drawn.map((v) => {
        const mine = [...best].filter(([, i]) => points.axes[by][i] === v).sort(([, i], [, j]) => order(i) - order(j));
        const pick = (column) => mine.map(([, i]) => column[i]);
        return {
          v, x: mine.map(([, i]) => x(i)), y: pick(points[name]), low: pick(points[`${name}_low`]), high: pick(points[`${name}_high`]),
          n: pick(points.n), about: mine.map(([, i]) => describe(points, i)), counts: mine.map(([k]) => counts.get(k)),
        };
      });
      return { series: series.filter((one) => one.x.length), by };
    };
  }

  /** The best configuration of each cell, of all that pass or of one line. */
  function grid(yName, xName) {
    const code = (name) => (name === "rate" ? points.rate : points.axes[axes.findIndex((axis) => axis.name === name)]);
    const values = (name) => (name === "rate" ? data.rates : axes.find((axis) => axis.name === name).values);
    return ({ passing }) => {
      const xs = code(xName), ys = code(yName);
      const some = passing.filter((i) => xs[i] !== null && (state.of === null || points.axes[state.by][i] === state.of));
      const key = (i) => `${xs[i]} ${ys[i]}`, counts = sums(some, key);
      const cells = [...firsts(some, key)].map(([k, i]) => ({
        x: xs[i], y: ys[i], v: points.axes[state.by][i], score: points.score[i], low: points.score_low[i], high: points.score_high[i],
        n: points.n[i], about: describe(points, i), counts: counts.get(k),
      }));
      return { cells, xs: values(xName), ys: values(yName), by: state.by };
    };
  }

  /** A plot of the whole sweep: only the filter of the optimizers decides what shows. */
  function whole(plot) {
    return () => {
      const series = plot.series.filter((one) => state.chosen[0].has(one.v)).slice(0, state.top);
      return { series, by: 0, where: "of the whole sweep, whatever the other filters say" };
    };
  }

  const dropout = axes.findIndex((axis) => axis.name === "dropout");
  const builders = {
    curves: learning,
    lr: over("score", (i) => points.lr[i], (i) => points.lr[i]),
    gap: (view) => over("gap", (i) => points.axes[dropout][i], (i) => points.axes[dropout][i])(view, dropout),
    batch_size_rate: grid("batch_size", "rate"),
    batch_size_dropout: grid("batch_size", "dropout"),
  };

  // ---------------------------------------------------------------- how they are drawn

  const { scales } = styles;
  // Plotly reads some HTML, and TeX between dollars.
  const escape = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\$/g, "&#36;");
  const shorten = (text, most = 22) => (text.length > most ? text.slice(0, most - 1) + "…" : text);
  const colour = (style) => styles.colours[isDark() ? "dark" : "light"][style % styles.colours.light.length];
  const symbol = (style) => styles.symbols[style % styles.symbols.length];
  const dash = (style) => ["solid", "dashdot", "longdash", "dot"][Math.floor(style / 40) % 4];
  const faint = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))},${alpha})`;

  function shown(plot, value) {
    if (!isNumber(value)) return "–";
    const scaled = value * scales[plot.unit];
    if (plot.unit === "number") return String(Number(scaled.toPrecision(4)));
    return (plot.unit === "points" && scaled >= 0 ? "+" : "") + scaled.toFixed(2);
  }

  function interval(plot, y, low, high) {
    if (!isNumber(low) || !isNumber(high)) return shown(plot, y);
    const isEven = Math.abs(high - y - (y - low)) <= 1e-3 * (high - low);
    return isEven ? `${shown(plot, y)} ± ${shown(plot, (high - low) / 2).replace("+", "")}` : `${shown(plot, y)} (${shown(plot, low)} – ${shown(plot, high)})`;
  }

  /** `plots.view`: from the best value four times as far as to the median; intervals widen it by half at most. */
  function viewed(values, ends, turn) {
    const found = values.filter(isNumber).map((v) => turn * v).sort((a, b) => a - b);
    if (!found.length) return [0, 1];
    const best = found.at(-1), middle = (found[(found.length - 1) >> 1] + found[found.length >> 1]) / 2;
    const low = Math.max(found[0], best - 4 * (best - middle), turn > 0 ? 0.9 * best : -Infinity), span = Math.max(best - low, 1e-3 * Math.abs(best), 1e-9);
    const reach = ends.filter(isNumber).map((v) => turn * v);
    const end = Math.max(best, ...reach.filter((v) => v <= best + span / 2)) + span / 20;
    const top = turn > 0 ? Math.min(end, Math.max(1, best) + span / 20) : end;
    const bottom = Math.min(low, ...reach.filter((v) => v >= low - span / 2)) - span / 20;
    return turn > 0 ? [bottom, top] : [-top, -bottom];
  }

  const isPrinting = () => printing || matchMedia("print").matches;
  let printing = false;
  function isDark() {
    if (isPrinting()) return false;
    const asked = document.documentElement.dataset.theme;
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  function layout(plot, extra) {
    const ink = isDark() ? "#c9d1d9" : "#3d4650", rule = isDark() ? "#2e363f" : "#e3e7eb", paper = isDark() ? "#14171c" : "#ffffff";
    const axis = { gridcolor: rule, linecolor: rule, zeroline: false, title: { standoff: 8 } };
    return {
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      // Fixed, for plotly's own search for margins may not come to an end.
      margin: { l: 58, r: 14, t: 10, b: 46, autoexpand: false, ...extra.margin }, showlegend: false, hovermode: "closest",
      hoverlabel: { bgcolor: paper, bordercolor: rule, font: { color: ink, size: 12 }, align: "left" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      width: printing ? 330 : undefined, height: printing ? 250 : undefined, autosize: !printing,
      xaxis: { ...axis, title: { ...axis.title, text: escape(plot.x) }, ...extra.x },
      yaxis: { ...axis, title: { ...axis.title, text: escape(plot.y + { percent: " %", points: ", points", number: "" }[plot.unit]) }, ...extra.y },
    };
  }

  /** Ticks for values that have places instead of sizes, or are labels, in which Plotly would read HTML. */
  const ticks = (texts) => ({ tickvals: texts.map((_, i) => i), ticktext: texts.map((text) => escape(shorten(text))) });

  const hover = (plot, by, one, i) =>
    [
      `<b>${escape(axes[by].values[one.v])}</b>${one.isDashed ? " (training)" : ""}`,
      escape(`${plot.x} ${plot.places ? plot.places[one.x[i]] : one.x[i]}: ${interval(plot, one.y[i], one.low[i], one.high[i])}`),
      one.n ? escape(`n = ${one.n[i]}`) : "",
      one.about && one.about[i] ? escape(one.about[i]) : "",
      one.counts && one.counts[i].diverged ? `${one.counts[i].diverged} of ${one.counts[i].trials} trials diverged` : "",
    ].filter(Boolean).join("<br>");

  function lineTraces(plot, { series, by }, range) {
    const scale = scales[plot.unit], bands = [], lines = [], marks = [], alpha = series.length <= 3 ? 0.18 : series.length <= 6 ? 0.11 : 0.07;
    const hasBands = state.bands && (!plot.banded || series.length <= plot.banded);
    const heights = series.flatMap((one) => one.y).filter(isNumber), floor = range ? range[0] : heights.length ? Math.min(...heights) : 0;
    for (const one of series) {
      const line = { color: colour(one.v), width: one.isDashed ? 1.2 : 2, dash: one.isDashed ? "dash" : dash(one.v), shape: plot.isStepped ? "hv" : "linear" };
      const sure = one.x.map((_, i) => i).filter((i) => isNumber(one.low[i]) && isNumber(one.high[i]));
      if (hasBands && sure.length > 1 && !one.isDashed && !plot.isStepped)
        bands.push({
          x: [...sure.map((i) => one.x[i]), ...sure.map((i) => one.x[i]).reverse()],
          y: [...sure.map((i) => scale * one.high[i]), ...sure.map((i) => scale * one.low[i]).reverse()],
          fill: "toself", fillcolor: faint(line.color, alpha), line: { width: 0 }, mode: "lines", hoverinfo: "skip", meta: { role: "band", v: one.v },
        });
      lines.push({
        x: one.x, y: one.y.map((y) => (isNumber(y) ? scale * y : null)), line,
        mode: one.isDashed ? "lines" : "lines+markers", marker: { symbol: symbol(one.v), size: 7, maxdisplayed: one.x.length > 24 ? 12 : 0 },
        hoverinfo: "text", text: one.x.map((_, i) => hover(plot, by, one, i)), meta: { role: one.isDashed ? "train" : "line", v: one.v },
      });
      const lost = (one.counts ?? []).map((count, i) => (count.diverged && plot.name === "lr" ? i : -1)).filter((i) => i >= 0);
      if (lost.length)
        marks.push({
          x: lost.map((i) => one.x[i]), mode: "markers", cliponaxis: false,
          y: lost.map((i) => scale * (isNumber(one.y[i]) ? Math.max(one.y[i], floor) : floor)),
          marker: { symbol: "x-thin", size: 11, line: { width: 2, color: line.color } },
          hoverinfo: "text", text: lost.map((i) => hover(plot, by, one, i)), meta: { role: "diverged", v: one.v },
        });
    }
    return [...bands, ...lines, ...marks];
  }

  function drawLines(plot, canvas, result) {
    const scale = scales[plot.unit], solid = result.series.filter((one) => !one.isDashed);
    const range = plot.isViewed ? viewed(solid.flatMap((one) => one.y), solid.flatMap((one) => [...one.low, ...one.high]), plot.isLoss ? -1 : 1) : null;
    const xs = [...new Set(solid.flatMap((one) => one.x))], decades = { type: "log", dtick: 1, exponentformat: plot.name === "lr" ? "power" : "none" };
    const few = { type: "log", tickvals: xs, ticktext: xs.map((value) => (value < 1e-3 ? value.toExponential() : String(value))) };
    const x = plot.places ? ticks(plot.places) : !plot.isLog ? {} : xs.length <= 5 ? few : decades;
    const y = range && !state.full ? { range: range.map((end) => scale * end) } : { autorange: true };
    react(canvas, lineTraces(plot, result, state.full ? null : range), layout(plot, { x, y }));
    const hidden = range && !state.full ? solid.flatMap((one) => one.y).filter((value) => isNumber(value) && (plot.isLoss ? value > range[1] : value < range[0])).length : 0;
    return hidden ? `${hidden} point${hidden > 1 ? "s lie" : " lies"} outside what is shown: see “Whole range”.` : "";
  }

  function drawDots(plot, canvas, result) {
    const series = result.series, names = series.map((one) => axes[0].values[one.v]);
    const ends = series.flatMap((one) => [one.x[0], one.high[0]]).filter(isNumber), never = 1.15 * Math.max(1, ...ends);
    const at = (value) => (isNumber(value) ? value : never);
    const traces = series.flatMap((one, i) => [
      { x: [at(one.low[0]), at(one.high[0])], y: [i, i], mode: "lines", line: { color: colour(one.v), width: 2 }, hoverinfo: "skip", meta: { role: "band", v: one.v } },
      {
        x: [at(one.x[0])], y: [i], mode: "markers", marker: { symbol: symbol(one.v) + (isNumber(one.x[0]) ? "" : "-open"), size: 10, color: colour(one.v) },
        hoverinfo: "text", text: [`<b>${escape(names[i])}</b><br>${escape(one.about[0])}`], meta: { role: "line", v: one.v },
      },
    ]);
    const range = { range: [series.length - 0.4, -0.6], ...ticks(names), title: { text: "" } };
    const misses = series.some((one) => one.x[0] === null || one.high[0] === null);
    const margin = { l: 20 + 6.6 * Math.max(...names.map((name) => shorten(name).length)) };
    react(canvas, traces, layout(plot, { x: { rangemode: "tozero" }, y: range, margin }));
    return misses ? "At the right edge: not reached." : "";
  }

  function drawGrid(plot, canvas, { cells, xs, ys, by }) {
    const scale = scales[plot.unit], blank = () => ys.map(() => xs.map(() => null));
    const z = blank(), text = ys.map(() => xs.map(() => "")), about = blank(), marks = [];
    for (const cell of cells) {
      const value = isNumber(cell.score) ? scale * cell.score : null;
      z[cell.y][cell.x] = value;
      text[cell.y][cell.x] = value === null ? "" : plot.unit === "percent" ? value.toFixed(1) : value.toPrecision(3);
      about[cell.y][cell.x] = [
        `<b>${escape(axes[by].values[cell.v])}</b>`,
        escape(`${plot.y} ${ys[cell.y]}, ${plot.x} ${xs[cell.x]}`),
        escape(`${data.words}: ${interval(plot, cell.score, cell.low, cell.high)}, n = ${cell.n}`),
        escape(cell.about),
        cell.counts.diverged ? `${cell.counts.diverged} of ${cell.counts.trials} trials diverged` : "",
      ].filter(Boolean).join("<br>");
      if (value === null) marks.push(cell);
    }
    const [low, high] = viewed(cells.map((cell) => cell.score), [], isLoss ? -1 : 1);
    const traces = [
      {
        type: "heatmap", z, text, texttemplate: "%{text}", hoverinfo: "text", hovertext: about, hoverongaps: false, xgap: 2, ygap: 2,
        colorscale: styles.scale, reversescale: isLoss, zmin: scale * low, zmax: scale * high, meta: { role: "grid" },
        colorbar: { thickness: 10, outlinewidth: 0, len: 0.9, tickfont: { size: 11 } },
      },
      {
        x: marks.map((cell) => cell.x), y: marks.map((cell) => cell.y), mode: "text", text: marks.map(() => "div."),
        hoverinfo: "text", hovertext: marks.map((cell) => about[cell.y][cell.x]), meta: { role: "diverged" },
      },
    ];
    const axis = (texts) => ({ ...ticks(texts), showgrid: false, range: [-0.5, texts.length - 0.5] });
    const longest = (texts) => Math.max(...texts.map((text) => shorten(text).length)), isTight = xs.length * (longest(xs) + 1) > 44;
    const margin = { l: 38 + 6.6 * longest(ys), r: 60, b: isTight ? 46 + 5 * longest(xs) : 46 };
    react(canvas, traces, layout({ ...plot, unit: "number" }, { x: { ...axis(xs), tickangle: isTight ? -45 : 0 }, y: axis(ys), margin }));
    return "";
  }

  const config = {
    responsive: true, displaylogo: false, displayModeBar: matchMedia("(pointer: coarse)").matches ? false : "hover", modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg" },
  };
  const react = (canvas, traces, arranged) => Plotly.react(canvas, traces, arranged, config);

  // ---------------------------------------------------------------- the legend of a plot, a list of words

  const shapes = {
    circle: "M12 8a4 4 0 1 0-8 0a4 4 0 1 0 8 0Z", square: "M4.5 4.5h7v7h-7Z", diamond: "M8 3l5 5l-5 5l-5-5Z",
    "triangle-up": "M8 3.5l4.5 8h-9Z", "triangle-down": "M8 12.5l4.5-8h-9Z", cross: "M6.5 3h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5Z",
    x: "M5 3l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3Z", pentagon: "M8 3l5 3.8l-1.9 5.7h-6.2l-1.9-5.7Z",
    star: "M8 2.5l1.4 3.9h4l-3.2 2.5l1.2 4l-3.4-2.4l-3.4 2.4l1.2-4l-3.2-2.5h4Z", hexagon: "M3.5 5.4l4.5-2.6l4.5 2.6v5.2l-4.5 2.6l-4.5-2.6Z",
  };

  function key(v, by) {
    const item = document.createElement("li"), label = document.createElement("span"), name = "http://www.w3.org/2000/svg";
    const picture = document.createElementNS(name, "svg");
    for (const [attribute, value] of Object.entries({ width: 26, height: 16, viewBox: "-5 0 26 16", "aria-hidden": true })) picture.setAttribute(attribute, value);
    for (const [path, fill] of [["M-5 8h26", "none"], [shapes[symbol(v)], colour(v)]]) {
      const line = document.createElementNS(name, "path");
      line.setAttribute("d", path);
      line.setAttribute("fill", fill);
      if (fill === "none") line.setAttribute("stroke", colour(v));
      line.setAttribute("stroke-width", 2);
      picture.append(line);
    }
    label.textContent = label.title = axes[by].values[v];
    item.append(picture, label);
    return item;
  }

  // ---------------------------------------------------------------- from state to page

  const plural = (heading) => (heading.endsWith("s") ? heading + "es" : heading + "s");

  function explain(view, result, plot) {
    if (plot.kind === "grid") return state.of === null ? "The best of all that pass the filters." : `Only ${axes[state.by].values[state.of]}.`;
    const drawn = new Set(result.series.map((one) => one.v)).size, all = plot.series ? plot.series.filter((one) => state.chosen[0].has(one.v)).length : view.all.length;
    const heading = axes[result.by].heading, n = result.series.filter((one) => !plot.series && one.n).flatMap((one) => one.n).filter(Boolean);
    const parts = [all > drawn ? `The ${drawn} best of ${all} ${plural(heading)}` : `${drawn} ${drawn === 1 ? heading : plural(heading)}`];
    if (result.where) parts.push(result.where);
    if (n.length) parts.push(`n = ${[...new Set([Math.min(...n), Math.max(...n)])].join("–")}`);
    const without = (result.without ?? []).map((v) => axes[result.by].values[v]);
    return parts.join(", ") + "." + (without.length ? ` No curve (${result.why}): ${without.slice(0, 5).join(", ")}${without.length > 5 ? ` and ${without.length - 5} others` : ""}.` : "");
  }

  function drawAll() {
    const view = look();
    for (const plot of plots) {
      const figure = document.getElementById(`plot-${plot.name}`), canvas = $(".canvas", figure), empty = $(".empty", figure);
      const result = (plot.series ? whole(plot) : builders[plot.name])(view);
      const isEmpty = !(result.series ?? result.cells).length;
      empty.hidden = !isEmpty;
      canvas.hidden = isEmpty;
      const by = result.by, drawn = plot.kind === "lines" ? [...new Set(result.series.map((one) => one.v))] : [];
      $(".keys", figure).replaceChildren(...drawn.map((v) => key(v, by)));
      if (isEmpty) { $(".shown", figure).textContent = ""; continue; }
      const draw = { lines: drawLines, dots: drawDots, grid: drawGrid }[plot.kind];
      const remark = draw(plot, canvas, result);
      $(".shown", figure).textContent = [explain(view, result, plot), remark].filter(Boolean).join(" ");
    }
    return view;
  }

  function filterTables() {
    let hidden = 0;
    for (const row of $$("tr[data-keys]")) {
      const codes = row.dataset.keys.split(",");
      row.hidden = codes.some((code, a) => code !== "" && !state.chosen[a].has(Number(code)));
      hidden += row.hidden;
    }
    for (const box of $$(".table")) {
      const out = $$("tbody tr", box).filter((row) => row.hidden).length, note = $(".filtered", box);
      note.hidden = !out;
      note.textContent = `${out} row${out > 1 ? "s" : ""} hidden by the filters. Ranks, differences and marks stay those of the whole sweep.`;
    }
  }

  const form = $("#filters");

  function showState(view) {
    if (!form) return;
    axes.forEach((_, a) => $$(`input[name="axis-${a}"]`, form).forEach((box) => (box.checked = state.chosen[a].has(Number(box.value)))));
    for (const name of ["train", "bands", "full"]) if (form.elements[name]) form.elements[name].checked = state[name];
    if (form.elements.by) form.elements.by.value = String(state.by);
    if (form.elements.top) {
      const top = form.elements.top, texts = [...top.options].map((option) => option.value);
      if (!texts.includes(String(state.top))) top.add(new Option(`${state.top} best`, String(state.top)));
      top.value = String(state.top);
    }
    if (form.elements.of) {
      const found = view.all.slice().sort((v, w) => v - w), of = form.elements.of;
      of.replaceChildren(new Option("best of all shown", ""), ...found.map((v) => new Option(shorten(axes[state.by].values[v], 40), String(v))));
      if (state.of !== null && !found.includes(state.of)) of.add(new Option(axes[state.by].values[state.of], String(state.of)));
      of.value = state.of === null ? "" : String(state.of);
    }
    const { heading, values } = axes[state.by];
    $("#status").textContent = view.passing.length ? `${view.all.length} of ${values.length} ${plural(heading)} pass the filters.` : "Nothing passes the filters.";
  }

  function update({ keepsAddress = false } = {}) {
    const view = drawAll();
    filterTables();
    showState(view);
    if (!keepsAddress) {
      const hash = toHash();
      history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    }
  }

  function listen() {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", ({ target }) => {
      if (target.name?.startsWith("axis-")) {
        const chosen = state.chosen[Number(target.name.slice(5))];
        if (target.checked) chosen.add(Number(target.value));
        else chosen.delete(Number(target.value));
      } else if (target.name === "by") [state.by, state.of] = [Number(target.value), null];
      else if (target.name === "top") state.top = Number(target.value);
      else if (target.name === "of") state.of = target.value === "" ? null : Number(target.value);
      else if (target.name in state) state[target.name] = target.checked;
      else return;
      update();
    });
    const find = (field) => {
      const text = field.value.trim().toLowerCase();
      for (const label of $$(".options label", field.closest("fieldset"))) label.hidden = !label.textContent.toLowerCase().includes(text);
    };
    form.addEventListener("input", ({ target }) => target.type === "search" && find(target));
    form.addEventListener("click", ({ target }) => {
      if (target.dataset.reset !== undefined) {
        state = defaults();
        for (const field of $$("input[type=search]", form)) find(Object.assign(field, { value: "" }));
      } else if (target.dataset.all !== undefined) {
        const boxes = $$(".options label", target.closest("fieldset")).filter((label) => !label.hidden).map((label) => $("input", label));
        for (const box of boxes) state.chosen[Number(target.value)][target.dataset.all ? "add" : "delete"](Number(box.value));
      } else return;
      update();
    });
    if (matchMedia("(max-width: 60rem)").matches) form.closest("details").open = false;
  }

  // ---------------------------------------------------------------- tables sort by what stands in data-value

  function sort(header) {
    const body = $("tbody", header.closest("table")), column = [...header.parentNode.children].indexOf(header);
    const isNumeric = header.dataset.numeric !== undefined, before = header.getAttribute("aria-sort");
    const isDown = before ? before === "ascending" : isNumeric;
    const value = (row) => row.children[column].dataset.value;
    const compare = isNumeric ? (a, b) => (Number(a) === Number(b) ? 0 : Number(a) - Number(b)) : (a, b) => a.localeCompare(b, "en", { numeric: true });
    const rows = [...body.children].sort((one, other) => {
      const a = value(one), b = value(other);
      if (a === "" || b === "") return (a === "") - (b === "");  // what is missing comes last, either way
      return isDown ? compare(b, a) : compare(a, b);
    });
    body.append(...rows);
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", isDown ? "descending" : "ascending");
  }

  for (const button of $$("thead button")) button.addEventListener("click", () => sort(button.closest("th")));

  // ---------------------------------------------------------------- links, theme, printing

  // A link inside the page must not take the address's place, which holds the filters.
  for (const link of $$('a[href^="#"]'))
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const goal = document.getElementById(link.hash.slice(1));
      goal.scrollIntoView();
      goal.focus({ preventScroll: true });
    });

  const theme = $("#theme");
  const remembered = (value) => {
    try { return value === undefined ? localStorage.getItem("optbench-theme") : localStorage.setItem("optbench-theme", value); } catch { return null; }
  };
  function paint() {
    theme.textContent = isDark() ? "Light" : "Dark";
    theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
    drawAll();
  }
  theme.hidden = false;
  theme.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    remembered(document.documentElement.dataset.theme);
    paint();
  });
  if (["light", "dark"].includes(remembered())) document.documentElement.dataset.theme = remembered();
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", paint);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });
  addEventListener("hashchange", () => {
    if (location.hash.includes("=") || location.hash === "") { state = fromHash(location.hash.slice(1)); update({ keepsAddress: true }); }
  });

  if (form) listen();
  if (location.hash.includes("=")) state = fromHash(location.hash.slice(1));
  update({ keepsAddress: true });
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  document.documentElement.dataset.ready = "";
})();
