// The page's plots, filters and tables. Every number was computed by optbench: a filter only decides which show.
// `data.points` are configurations, best first: of those that pass the filters, the first one is the best.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { axes, points, fresh, curves, plots, styles } = data;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const isNumber = (value) => value !== null && Number.isFinite(value);
  const isLoss = data.score.endsWith("loss");
  const form = $("#filters");

  // ---------------------------------------------------------------- state, which the address holds

  /** by: the axis of the lines; top: how many are drawn; of: the line that heat maps show; chosen: codes per axis. */
  const defaults = () => ({
    by: data.by, top: data.top, train: false, bands: true, full: false, of: null,
    chosen: axes.map((axis) => new Set(axis.values.keys())),
  });
  let state = defaults();
  const isFull = (a) => state.chosen[a].size === axes[a].values.length;

  function toHash() {
    const entries = [];
    axes.forEach(({ name, values }, a) => {
      if (isFull(a)) return;
      const kept = [...state.chosen[a]], left = [...values.keys()].filter((v) => !state.chosen[a].has(v));
      if (!kept.length) entries.push([name, ""]);
      else if (left.length < kept.length) entries.push(...left.map((v) => [`not-${name}`, values[v]]));
      else entries.push(...kept.map((v) => [name, values[v]]));
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
    axes.forEach(({ name, values }, a) => {
      const codes = (key) => asked.getAll(key).map((text) => values.indexOf(text)).filter((v) => v >= 0);
      if (asked.has(name)) next.chosen[a] = new Set(codes(name));
      for (const v of codes(`not-${name}`)) next.chosen[a].delete(v);
    });
    const by = axes.findIndex((axis) => axis.name === asked.get("lines"));
    if (by >= 0) next.by = by;
    if (Number(asked.get("top")) > 0) next.top = Number(asked.get("top"));
    next.train = asked.has("train");
    next.bands = asked.get("bands") !== "0";
    next.full = asked.has("full");
    const of = axes[next.by].values.indexOf(asked.get("of"));
    if (of >= 0) next.of = of;
    return next;
  }

  // ---------------------------------------------------------------- which numbers show

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

  /** What the filters leave: the points that pass, and the lines, best first, of which the first ones are drawn. */
  function look() {
    const passing = [...points.n.keys()].filter((i) => axes.every((_, a) => state.chosen[a].has(points.axes[a][i])));
    const isFresh = state.by === 0 && fresh.n.length > 0 && axes.every((_, a) => a === 0 || isFull(a));
    const scores = new Map();
    const best = firsts(passing, (i) => points.axes[state.by][i]);
    for (const [v, i] of best) scores.set(v, isFresh ? null : points.score[i]);
    if (isFresh) fresh.optimizer.forEach((v, i) => state.chosen[0].has(v) && scores.set(v, fresh.score[i]));
    const cost = (v) => (isNumber(scores.get(v)) ? (isLoss ? 1 : -1) * scores.get(v) : Infinity);
    const all = [...scores.keys()].sort((v, w) => (cost(v) === cost(w) ? v - w : cost(v) - cost(w)));
    return { passing, isFresh, all, lines: all.slice(0, state.top) };
  }

  const describe = (source, i) =>
    [source.lr[i] === null ? "" : `lr=${source.lr[i]}`, source.configuration[i]].filter(Boolean).join(", ");

  /** The learning curve of each line's best configuration. */
  function learning({ passing, isFresh, lines }) {
    const best = firsts(passing, (i) => points.axes[state.by][i]), source = isFresh ? fresh : points;
    const series = [], without = [];
    for (const v of lines) {
      const i = isFresh ? fresh.optimizer.indexOf(v) : best.get(v), curve = curves[source.curve[i] ?? -1];
      if (!curve) {
        without.push(v);
        continue;
      }
      const followed = curve.val.some((y) => y !== null) ? "val" : "train";
      for (const split of new Set([followed, state.train ? "train" : followed]))
        series.push({
          v, x: curve.epoch, n: curve.n, isDashed: split !== followed, about: curve.epoch.map(() => describe(source, i)),
          y: curve[split], low: curve[`${split}_low`], high: curve[`${split}_high`],
        });
    }
    return {
      series, by: state.by, without, why: isFresh ? "not confirmed, or diverged" : "diverged, or not in this file",
      where: isFresh ? "on fresh seeds" : fresh.n.length ? "on the seeds that selected them" : "",
    };
  }

  /** For each line the best configuration's score `name` at each x; lines are not of the axis that is `taken` by x. */
  function over(name, x, taken) {
    return ({ passing, lines }) => {
      const by = state.by === taken ? 0 : state.by;
      const others = () => [...new Set(passing.map((i) => points.axes[0][i]))].sort((v, w) => v - w);
      const some = passing.filter((i) => x[i] !== null), key = (i) => `${points.axes[by][i]} ${x[i]}`;
      const best = [...firsts(some, key).values()], counts = sums(some, key);
      const series = (by === state.by ? lines : others().slice(0, state.top)).map((v) => {
        const mine = best.filter((i) => points.axes[by][i] === v).sort((i, j) => x[i] - x[j]);
        const pick = (column) => mine.map((i) => column[i]);
        return {
          v, x: pick(x), y: pick(points[name]), low: pick(points[`${name}_low`]), high: pick(points[`${name}_high`]),
          n: pick(points.n), about: mine.map((i) => describe(points, i)), counts: mine.map((i) => counts.get(key(i))),
        };
      });
      return { series: series.filter((one) => one.x.length), by };
    };
  }

  /** The best configuration of each cell, of all that pass or of one line. */
  function grid(yName, xName) {
    const place = (name) => axes.findIndex((axis) => axis.name === name);
    const codes = (name) => (name === "rate" ? points.rate : points.axes[place(name)]);
    const values = (name) => (name === "rate" ? data.rates : axes[place(name)].values);
    return ({ passing }) => {
      const xs = codes(xName), ys = codes(yName), lines = points.axes[state.by];
      const some = passing.filter((i) => xs[i] !== null && (state.of === null || lines[i] === state.of));
      const key = (i) => `${xs[i]} ${ys[i]}`, counts = sums(some, key);
      const cells = [...firsts(some, key).values()].map((i) => ({
        x: xs[i], y: ys[i], v: lines[i], n: points.n[i], about: describe(points, i), counts: counts.get(key(i)),
        score: points.score[i], low: points.score_low[i], high: points.score_high[i],
      }));
      return { cells, xs: values(xName), ys: values(yName), by: state.by };
    };
  }

  /** A plot of the whole sweep: only the filter of the optimizers decides what shows. */
  const whole = (plot) => () => ({
    series: plot.series.filter((one) => state.chosen[0].has(one.v))
      .slice(0, plot.kind === "dots" ? Math.max(state.top, data.dots) : state.top),
    by: 0,
    where: "of the whole sweep, whatever the other filters say",
  });

  const dropout = axes.findIndex((axis) => axis.name === "dropout");
  const builders = {
    curves: learning,
    lr: over("score", points.lr),
    gap: over("gap", points.axes[dropout], dropout),
    batch_size_rate: grid("batch_size", "rate"),
    batch_size_dropout: grid("batch_size", "dropout"),
  };

  // ---------------------------------------------------------------- numbers and labels as text

  // Plotly reads some HTML, and TeX between dollars.
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", $: "&#36;" };
  const escape = (text) => String(text).replace(/[&<>$]/g, (character) => entities[character]);
  const shorten = (text, most = 22) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const plural = (heading) => heading + (heading.endsWith("s") ? "es" : "s");
  const longest = (texts) => Math.max(...texts.map((text) => shorten(text).length));

  function shown(plot, value) {
    if (!isNumber(value)) return "–";
    const scaled = value * styles.scales[plot.unit];
    if (plot.unit === "number") return String(Number(scaled.toPrecision(4)));
    return (plot.unit === "points" && scaled >= 0 ? "+" : "") + scaled.toFixed(2);
  }

  function interval(plot, y, low, high) {
    if (!isNumber(low) || !isNumber(high)) return shown(plot, y);
    const isEven = Math.abs(high - y - (y - low)) <= 1e-3 * (high - low);
    if (isEven) return `${shown(plot, y)} ± ${shown(plot, (high - low) / 2).replace("+", "")}`;
    return `${shown(plot, y)} (${shown(plot, low)} – ${shown(plot, high)})`;
  }

  const lost = ({ trials, diverged }) => (diverged ? `${diverged} of ${trials} trials diverged` : "");

  /** The text of a point: its line in bold, then one line for each text. */
  const told = (label, ...texts) => [`<b>${escape(label)}</b>`, ...texts.filter(Boolean).map(escape)].join("<br>");

  const pointed = (plot, by, one, i) =>
    told(
      axes[by].values[one.v] + (one.isDashed ? " (training)" : ""),
      `${plot.x} ${plot.places?.[one.x[i]] ?? one.x[i]}: ${interval(plot, one.y[i], one.low[i], one.high[i])}`,
      one.n && `n = ${one.n[i]}`,
      one.about?.[i],
      one.counts && lost(one.counts[i]),
    );

  // ---------------------------------------------------------------- how plots look

  let isPrinting = false;
  function isDark() {
    if (isPrinting || matchMedia("print").matches) return false;
    const asked = document.documentElement.dataset.theme;
    return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  const isTouched = matchMedia("(pointer: coarse)").matches, narrow = matchMedia("(max-width: 40rem)");

  /** `plots.styles`: the style of each of the lines, drawn in this order. */
  function styled(lines) {
    const found = new Map(), taken = new Set(), colours = styles.colours.light.length;
    lines.forEach((v, i) => {
      let style = i - (i % colours) + (v % colours);
      while (taken.has(style)) style += (style + 1) % colours ? 1 : 1 - colours;
      taken.add(style);
      found.set(v, style);
    });
    return found;
  }

  let styleOf = new Map();  // of the plot that is being drawn
  const colour = (v) => styles.colours[isDark() ? "dark" : "light"][styleOf.get(v) % styles.colours.light.length];
  const turn = (v) => Math.floor(styleOf.get(v) / styles.colours.light.length);
  const symbol = (v) => styles.symbols[(styleOf.get(v) + turn(v)) % styles.symbols.length];
  const dash = (v) => ["solid", "dashdot", "longdash", "dot"][turn(v) % 4];
  const faint = (hex, alpha) => `rgba(${[1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16))},${alpha})`;

  /** `plots.view`: from the best value four times as far as to the median; intervals widen it by half at most. */
  function viewed(values, ends, isLess) {
    const turn = isLess ? -1 : 1, found = values.filter(isNumber).map((v) => turn * v).sort((a, b) => a - b);
    if (!found.length) return [0, 1];
    const best = found.at(-1), middle = (found[(found.length - 1) >> 1] + found[found.length >> 1]) / 2;
    const low = Math.max(found[0], best - 4 * (best - middle), isLess ? -Infinity : 0.9 * best);
    const span = Math.max(best - low, 1e-3 * Math.abs(best), 1e-9);
    const reach = ends.filter(isNumber).map((v) => turn * v);
    const end = Math.max(best, ...reach.filter((v) => v <= best + span / 2)) + span / 20;
    const top = isLess ? end : Math.min(end, Math.max(1, best) + span / 20);
    const bottom = Math.min(low, ...reach.filter((v) => v >= low - span / 2)) - span / 20;
    return isLess ? [-top, -bottom] : [bottom, top];
  }

  /** `plots.framed`: the whole intervals of all dots but those that are too bad to compare. */
  function framed(dots, isLess) {
    const [low, high] = viewed(dots.map((one) => one.x[0]), [], isLess);
    const seen = dots.filter(({ x }) => low <= x[0] && x[0] <= high);
    const ends = seen.flatMap((one) => [one.x[0], one.low[0], one.high[0]]).filter(isNumber);
    return new Set(ends).size < 2 ? [low, high] : around(ends, 1 / 30);
  }

  /** Values with some room around them. */
  function around(values, share = 1 / 20) {
    const found = values.filter(isNumber), low = Math.min(...found), high = Math.max(...found);
    const room = (high - low || Math.abs(high) || 1) * share;
    return found.length ? [low - room, high + room] : [0, 1];
  }

  const colours = () =>
    isDark()
      ? { ink: "#c9d1d9", rule: "#2e363f", paper: "#14171c" }
      : { ink: "#3d4650", rule: "#e3e7eb", paper: "#ffffff" };

  function layout(plot, { x, y, margin, height }) {
    const { ink, rule, paper } = colours(), axis = { gridcolor: rule, linecolor: rule, zeroline: false };
    const unit = { percent: " %", points: ", points", number: "" }[plot.unit], clear = "rgba(0,0,0,0)";
    return {
      font: { family: "system-ui, sans-serif", size: 12, color: ink },
      paper_bgcolor: clear, plot_bgcolor: clear, modebar: { bgcolor: clear, color: ink, activecolor: ink },
      // Margins are fixed, since plotly's own search for them may never end.
      margin: { l: 58, r: 14, t: 10, b: 46, autoexpand: false, ...margin },
      showlegend: false, hovermode: "closest", dragmode: isTouched ? false : "zoom",
      hoverlabel: { bgcolor: paper, bordercolor: rule, font: { color: ink, size: 12 }, align: "left" },
      ...(isPrinting ? { width: 330, height: height ?? 250 } : { autosize: true, height }),
      xaxis: { ...axis, title: { standoff: 8, text: escape(plot.x + (plot.kind === "dots" ? unit : "")) }, ...x },
      yaxis: { ...axis, title: { standoff: 8, text: escape(plot.y && plot.y + unit) }, ...y },
    };
  }

  const config = {
    responsive: true, displaylogo: false, displayModeBar: isTouched ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg" },
  };

  /** Ticks for values that have places instead of sizes. */
  const ticks = (texts) => ({ tickvals: [...texts.keys()], ticktext: texts.map((text) => escape(shorten(text))) });

  /** Ticks of a logarithmic axis: its values where they are few, else powers of ten, or of counts also 2 and 5. */
  function logarithmic(values, isPower) {
    const decades = Math.log10(Math.max(...values) / Math.min(...values));
    if (values.length > 5 && isPower) return { type: "log", dtick: decades > 4 ? 2 : 1, exponentformat: "power" };
    const round = [...Array(12).keys()].flatMap((k) => [1, 2, 5].map((digit) => digit * 10 ** k));
    const tickvals = values.length > 5 ? round : values;
    const text = (value) => (value < 1e-3 ? value.toExponential() : String(value));
    return { type: "log", tickvals, ticktext: tickvals.map(text) };
  }

  // ---------------------------------------------------------------- lines, dots and heat maps

  /** One that is not `isShown` waits for its line to be pointed at. */
  function band(one, scale, isShown) {
    const sure = [...one.x.keys()].filter((i) => isNumber(one.low[i]) && isNumber(one.high[i]));
    const back = [...sure].reverse();
    return {
      x: [...sure, ...back].map((i) => one.x[i]),
      y: [...sure.map((i) => scale * one.high[i]), ...back.map((i) => scale * one.low[i])],
      fill: "toself", fillcolor: faint(colour(one.v), 0.13), opacity: isShown ? 1 : 0, line: { width: 0 },
      mode: "lines", hoverinfo: "skip", meta: { role: "band", v: one.v },
    };
  }

  function line(plot, by, one, scale) {
    return {
      x: one.x, y: one.y.map((y) => (isNumber(y) ? scale * y : null)),
      line: {
        color: colour(one.v), width: one.isDashed ? 1.2 : 2, dash: one.isDashed ? "dash" : dash(one.v),
        shape: plot.isStepped ? "hv" : "linear",
      },
      mode: one.isDashed ? "lines" : "lines+markers",
      marker: { symbol: symbol(one.v), size: 7, maxdisplayed: one.x.length > 24 ? 12 : 0 },
      hoverinfo: "text", text: one.x.map((_, i) => pointed(plot, by, one, i)),
      meta: { role: one.isDashed ? "train" : "line", v: one.v },
    };
  }

  /** Crosses where trials diverged, at the worst y of the plot where all did. */
  function crosses(plot, by, one, scale, worst) {
    const height = (y) => (!isNumber(y) ? worst : plot.isLoss ? Math.min(y, worst) : Math.max(y, worst));
    const at = [...one.x.keys()].filter((i) => one.counts[i].diverged);
    return {
      x: at.map((i) => one.x[i]), y: at.map((i) => scale * height(one.y[i])),
      mode: "markers", cliponaxis: false,
      marker: { symbol: "x-thin", size: 11, line: { width: 2, color: colour(one.v) } },
      hoverinfo: "text", text: at.map((i) => pointed(plot, by, one, i)), meta: { role: "diverged", v: one.v },
    };
  }

  function drawLines(plot, canvas, { series, by }) {
    const scale = styles.scales[plot.unit], solid = series.filter((one) => !one.isDashed);
    const heights = solid.flatMap((one) => one.y).filter(isNumber);
    const hasBands = state.bands && !plot.isStepped;
    const ends = solid.slice(0, data.bands).flatMap((one) => [...one.low, ...one.high]);
    const [low, high] = plot.isViewed ? viewed(heights, ends, plot.isLoss) : [];
    const isCut = plot.isViewed && !state.full, seen = isCut ? [low, high] : heights;
    const worst = seen.length ? Math[plot.isLoss ? "max" : "min"](...seen) : 0;
    const traces = [
      ...(hasBands ? solid.map((one, i) => band(one, scale, i < data.bands)) : []),
      ...series.map((one) => line(plot, by, one, scale)),
      ...(plot.name === "lr" ? solid.map((one) => crosses(plot, by, one, scale, worst)) : []),
    ];
    const values = [...new Set(solid.flatMap((one) => one.x))];
    const x = plot.places ? ticks(plot.places) : plot.isLog ? logarithmic(values, plot.name === "lr") : {};
    const all = [...series.flatMap((one) => one.y), ...(hasBands ? ends : [])];
    const y = { range: (isCut ? [low, high] : around(all)).map((end) => scale * end) };
    const names = solid.map((one) => axes[by].values[one.v]), isBeside = hasRoom(canvas, solid);
    const margin = isBeside ? { r: 44 + 6.4 * longest(names) } : {};
    Plotly.react(canvas, traces, layout(plot, { x, y, margin }), config);
    const list = $(".keys", canvas.parentNode);
    list.classList.toggle("beside", isBeside);
    const mine = styleOf;
    const name = () => {
      styleOf = mine;
      list.replaceChildren(...(isBeside ? beside(plot, canvas, solid, by, scale) : solid.map((one) => key(one.v, by))));
    };
    name();
    watch(canvas, name);
    return isCut ? outside(heights, low, high) : "";
  }

  /** Whether the names of the lines fit beside them. */
  const hasRoom = (canvas, solid) => !isPrinting && !narrow.matches && 15 * solid.length < canvas.clientHeight - 56;

  /** Places of labels of 14 pixels, near the wanted ones, without an overlap: `figures.spread`. */
  function spread(wanted, top, bottom) {
    const order = [...wanted.keys()].sort((i, j) => wanted[i] - wanted[j]), places = [];
    let free = top;
    for (const i of order) free = (places[i] = Math.max(free, Math.min(bottom, wanted[i]))) + 14;
    free = bottom;
    for (const i of order.reverse()) free = (places[i] = Math.min(free, places[i])) - 14;
    return places;
  }

  /** The names of the lines: tied to a line that ends at the right and in sight, else at the height of its best value. */
  function beside(plot, canvas, solid, by, scale) {
    const { yaxis, _size: size } = canvas._fullLayout, [low, high] = yaxis.range;
    const known = solid.map((one) => [...one.x.keys()].filter((i) => isNumber(one.y[i])));
    const last = Math.max(...solid.flatMap((one, k) => known[k].map((i) => one.x[i])));
    const found = solid.map((one, k) => {
      const heights = known[k].map((i) => scale * one.y[i]), end = heights.at(-1);
      const isTied = one.x[known[k].at(-1)] === last && low <= end && end <= high;
      const y = isTied ? end : heights.length ? Math[plot.isLoss ? "min" : "max"](...heights) : low;
      return { v: one.v, isTied, y: size.t + yaxis.l2p(y) };
    });
    const places = spread(found.map((one) => one.y), size.t, size.t + size.h);
    return found.map(({ v, isTied, y }, k) => {
      const item = key(v, by, isTied ? y - places[k] : null);
      Object.assign(item.style, { top: `calc(${places[k]}px - 0.5rem)`, width: `${size.r - 6}px` });
      return item;
    });
  }

  /** Dims all lines but one, and shows its band; null: all as they were. */
  function highlight(canvas, v) {
    for (const { uid, opacity, meta } of canvas._fullData) {
      const element = $(`.trace${uid}`, canvas), isIt = meta.v === v;
      if (element) element.style.opacity = v === null ? opacity : isIt ? 1 : meta.role === "band" ? 0 : 0.25;
    }
  }

  /** Pointing at a line, or at its name, sets it off; names follow when the plot is zoomed. */
  function watch(canvas, name) {
    const isNew = !canvas.rename;
    canvas.rename = name;
    if (!isNew) return;
    canvas.on("plotly_hover", ({ points: [point] }) => highlight(canvas, point.data.meta.v));
    canvas.on("plotly_unhover", () => highlight(canvas, null));
    canvas.on("plotly_relayout", () => canvas.rename());
  }

  /** A row for each: a dot, hollow if it says so, and a bar. What never comes, or lies beyond, is at the edge. */
  function drawDots(plot, canvas, { series }) {
    const names = series.map((one) => axes[0].values[one.v]), scale = styles.scales[plot.unit];
    const means = series.map((one) => one.x[0]), ends = series.flatMap((one) => [one.low[0], one.high[0]]);
    const all = [...means, ...ends].filter(isNumber), isCut = plot.isViewed && !state.full;
    const never = [0, 1.15 * Math.max(1, ...all)];
    const ranks = [Math.min(...means) - 0.25, Math.max(...means) + 0.25];
    const range = plot.groups ? ranks : isCut ? framed(series, plot.isLoss) : plot.isViewed ? around(all) : never;
    const [left, right] = range, rows = new Map(series.map((one, i) => [one.v, i]));
    const at = (value) => scale * (isNumber(value) ? Math.min(right, Math.max(left, value)) : right);
    const beyond = (value) =>
      isNumber(value) && (value < left ? "triangle-left" : value > right ? "triangle-right" : "");
    const traces = series.flatMap(({ v, x, low, high, hollow, about }, i) => [
      {
        x: plot.isViewed && !isNumber(low[0]) ? [] : [at(low[0]), at(high[0])], y: [i, i], mode: "lines",
        line: { color: colour(v), width: 2 }, hoverinfo: "skip", meta: { role: "band", v },
      },
      {
        x: [at(x[0])], y: [i], mode: "markers", hoverinfo: "text", cliponaxis: false,
        text: [told(names[i], plot.isViewed && `${plot.x}: ${interval(plot, x[0], low[0], high[0])}`, about[0])],
        marker: {
          symbol: beyond(x[0]) || symbol(v) + (hollow[0] ? "-open" : ""), size: 9, color: colour(v),
          line: { width: hollow[0] ? 2 : 0 },
        },
        meta: { role: "line", v },
      },
    ]);
    const y = { range: [series.length - 0.4, -0.6], ...ticks(names) }, margin = { l: 20 + 6.6 * longest(names) };
    const height = 70 + Math.max(6, series.length) * 18, x = { range: [scale * left, scale * right] };
    canvas.style.height = `${height}px`;
    const groups = (plot.groups ?? []).map((group) => group.map((v) => rows.get(v)).filter(isNumber));
    const shapes = groups.filter((group) => group.length > 1).map((group, k) => ({
      type: "line", xref: "paper", x0: 1.03 + 0.03 * (k % 5), x1: 1.03 + 0.03 * (k % 5), y0: Math.min(...group) - 0.2,
      y1: Math.max(...group) + 0.2, line: { width: 4, color: colours().ink },
    }));
    if (shapes.length) margin.r = 14 + 12 * Math.min(5, shapes.length);
    Plotly.react(canvas, traces, { ...layout(plot, { x, y, margin, height }), shapes }, config);
    if (plot.isViewed) return outside(means, left, right);
    return ends.every(isNumber) ? "" : "At the right edge: not reached.";
  }

  /** Each point with its interval, hollow if it says so, and, where there is room, its name; the others are joined. */
  function drawPoints(plot, canvas, { series }) {
    const scale = styles.scales[plot.unit], names = series.map((one) => axes[0].values[one.v]);
    const heights = series.map((one) => one.y[0]), isCut = plot.isViewed && !state.full;
    const dots = series.map(({ y, low, high }) => ({ x: y, low, high }));
    const ends = dots.flatMap((one) => [one.x[0], one.low[0], one.high[0]]);
    const [low, high] = isCut ? framed(dots, plot.isLoss) : around(ends);
    const at = (one) => (plot.isLog ? Math.log10(one.x[0]) : one.x[0]), [left, right] = around(series.map(at), 1 / 8);
    const x = { range: [left, right], type: plot.isLog ? "log" : "linear" }, y = { range: [scale * low, scale * high] };
    const looks = layout(plot, { x, y });
    const { width = canvas.clientWidth, height = canvas.clientHeight, margin } = looks;
    const size = [width - margin.l - margin.r, height - margin.t - margin.b];
    const across = (one) => (size[0] * (at(one) - left)) / (right - left);
    const down = (value) => (size[1] * (high - value)) / (high - low);
    const front = series.filter((one) => !one.hollow[0]).sort((one, other) => one.x[0] - other.x[0]);
    const places = series.map((one) => [across(one), down(one.y[0])]);
    const lines = [
      ...series.filter((one) => isNumber(one.low[0]))
        .map((one) => [across(one) - 2, down(one.high[0]), across(one) + 2, down(one.low[0])]),
      ...front.slice(1).flatMap((one, i) => {
        const [x, y, before] = [across(one), down(one.y[0]), down(front[i].y[0])];
        return [[across(front[i]), before, x, before], [x, Math.min(y, before), x, Math.max(y, before)]];
      }),
    ];
    const sides = named(names, places, size, lines);
    const steps = {
      x: front.map((one) => one.x[0]), y: front.map((one) => scale * one.y[0]), mode: "lines",
      line: { color: colours().ink, width: 1, shape: "hv" }, hoverinfo: "skip", meta: { role: "front" },
    };
    const traces = series.flatMap(({ v, x, y, low, high, hollow, about }, i) => [
      {
        x: isNumber(low[0]) ? [x[0], x[0]] : [], y: [scale * low[0], scale * high[0]], mode: "lines",
        line: { color: colour(v), width: 2 }, hoverinfo: "skip", meta: { role: "band", v },
      },
      {
        x, y: [scale * y[0]], mode: sides[i] ? "markers+text" : "markers",
        texttemplate: escape(shorten(names[i])), textposition: sides[i], textfont: { size: 11 }, hoverinfo: "text",
        hovertext: [
          told(names[i], `${plot.x}: ${x[0]}`, `${plot.y}: ${interval(plot, y[0], low[0], high[0])}`, about[0]),
        ],
        marker: {
          symbol: symbol(v) + (hollow[0] ? "-open" : ""), size: 9, color: colour(v), line: { width: hollow[0] ? 2 : 0 },
        },
        meta: { role: "line", v },
      },
    ]);
    Plotly.react(canvas, [steps, ...traces], looks, config);
    if (!sides.every(Boolean)) $(".keys", canvas.parentNode).replaceChildren(...series.map((one) => key(one.v, 0)));
    return isCut ? outside(heights, low, high) : "";
  }

  /** On which side of each point its name hides neither points nor names, nor lines if it can; undefined: on none. */
  function named(names, places, [width, height], lines) {
    const taken = places.map(([x, y]) => [x - 6, y - 6, x + 6, y + 6]);
    return names.map((name, i) => {
      const [x, y] = places[i], wide = 6.4 * shorten(name).length, tall = 14;
      const corners = {
        "middle right": [x + 7, y - tall / 2], "middle left": [x - 7 - wide, y - tall / 2],
        "top center": [x - wide / 2, y - 7 - tall], "bottom center": [x - wide / 2, y + 7],
        "top right": [x + 7, y - 5 - tall], "top left": [x - 7 - wide, y - 5 - tall],
        "bottom right": [x + 7, y + 5], "bottom left": [x - 7 - wide, y + 5],
      };
      const isFree = (...others) => ([, [a, b]]) =>
        a >= 0 && a + wide <= width - 4 && b >= 0 && b + tall <= height &&
        others.flat().every(([from, top, to, bottom]) => to < a || a + wide < from || bottom < b || b + tall < top);
      const sides = Object.entries(corners), found = sides.find(isFree(taken, lines)) ?? sides.find(isFree(taken));
      if (found) taken.push([...found[1], found[1][0] + wide, found[1][1] + tall]);
      return found?.[0];
    });
  }

  function outside(values, low, high) {
    const hidden = values.filter((value) => isNumber(value) && (value < low || value > high)).length;
    return hidden ? `${hidden} ${hidden > 1 ? "points lie" : "point lies"} outside what is shown: see “Whole range”.` : "";
  }

  function drawGrid(plot, canvas, { cells, xs, ys, by }) {
    const scale = styles.scales[plot.unit], blank = (value) => ys.map(() => xs.map(() => value));
    const z = blank(null), text = blank(""), about = blank("");
    const digits = (value) => (plot.unit === "percent" ? value.toFixed(1) : value.toPrecision(3));
    for (const { x, y, v, n, score, low, high, about: chosen, counts } of cells) {
      if (isNumber(score)) [z[y][x], text[y][x]] = [scale * score, digits(scale * score)];
      about[y][x] = told(
        axes[by].values[v], `${plot.y} ${ys[y]}, ${plot.x} ${xs[x]}`,
        `${data.words}: ${interval(plot, score, low, high)}, n = ${n}`, chosen, lost(counts),
      );
    }
    const [low, high] = viewed(cells.map((cell) => cell.score), [], plot.isLoss);
    const gone = cells.filter((cell) => !isNumber(cell.score));
    const traces = [
      {
        type: "heatmap", z, text, texttemplate: "%{text}", hoverinfo: "text", hovertext: about, hoverongaps: false,
        xgap: 2, ygap: 2, colorscale: styles.scale, reversescale: plot.isLoss, zmin: scale * low, zmax: scale * high,
        colorbar: { thickness: 10, outlinewidth: 0, len: 0.9, tickfont: { size: 11 } }, meta: { role: "grid" },
      },
      {
        x: gone.map((cell) => cell.x), y: gone.map((cell) => cell.y), mode: "text", text: gone.map(() => "div."),
        hoverinfo: "text", hovertext: gone.map((cell) => about[cell.y][cell.x]), meta: { role: "diverged" },
      },
    ];
    const axis = (texts) => ({ ...ticks(texts), showgrid: false, range: [-0.5, texts.length - 0.5] });
    const isTight = xs.length * (longest(xs) + 1) > 44;
    const margin = { l: 38 + 6.6 * longest(ys), r: 60, b: isTight ? 46 + 5 * longest(xs) : 46 };
    const x = { ...axis(xs), tickangle: isTight ? -45 : 0 };
    Plotly.react(canvas, traces, layout({ ...plot, unit: "number" }, { x, y: axis(ys), margin }), config);
    return "";
  }

  // ---------------------------------------------------------------- the legend of a plot, a list of words

  const shapes = {
    circle: "M12 8a4 4 0 1 0-8 0a4 4 0 1 0 8 0Z",
    square: "M4.5 4.5h7v7h-7Z",
    diamond: "M8 3l5 5l-5 5l-5-5Z",
    "triangle-up": "M8 3.5l4.5 8h-9Z",
    "triangle-down": "M8 12.5l4.5-8h-9Z",
    cross: "M6.5 3h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5Z",
    x: "M5 3l3 3l3-3l2 2l-3 3l3 3l-2 2l-3-3l-3 3l-2-2l3-3l-3-3Z",
    pentagon: "M8 3l5 3.8l-1.9 5.7h-6.2l-1.9-5.7Z",
    star: "M8 2.5l1.4 3.9h4l-3.2 2.5l1.2 4l-3.4-2.4l-3.4 2.4l1.2-4l-3.2-2.5h4Z",
    hexagon: "M3.5 5.4l4.5-2.6l4.5 2.6v5.2l-4.5 2.6l-4.5-2.6Z",
  };

  function drawn(name, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
    element.append(...children);
    return element;
  }

  /** A line's marker and name. Beside the plot, `end` is how far below it the line ends; null: not beside it. */
  function key(v, by, end) {
    const item = document.createElement("li"), label = document.createElement("span"), stroke = colour(v);
    const d = end === undefined ? "M-5 8h26" : end === null ? "" : `M-7 ${8 + end}L3 8`;
    const stripe = drawn("path", { d, fill: "none", stroke, "stroke-width": end === undefined ? 2 : 1 });
    const marker = drawn("path", { d: shapes[symbol(v)], fill: stroke });
    label.textContent = label.title = axes[by].values[v];
    const place = { width: 26, height: 16, viewBox: "-5 0 26 16", "aria-hidden": true };
    item.append(drawn("svg", place, stripe, marker), label);
    item.addEventListener("pointerenter", ({ target }) => highlight($(".canvas", target.closest(".frame")), v));
    item.addEventListener("pointerleave", ({ target }) => highlight($(".canvas", target.closest(".frame")), null));
    return item;
  }

  // ---------------------------------------------------------------- from state to page

  /** Which lines, on which seeds, how many: what a caption cannot know. */
  function explain(view, result, plot) {
    if (plot.kind === "grid")
      return state.of === null ? "The best of all that pass the filters." : `Only ${axes[state.by].values[state.of]}.`;
    const { heading, values } = axes[result.by], count = new Set(result.series.map((one) => one.v)).size;
    const all = plot.series ? plot.series.filter((one) => state.chosen[0].has(one.v)).length : view.all.length;
    const few = `${count} ${count === 1 ? heading : plural(heading)}`;
    const best = plot.kind === "points" ? "on the front or best" : "best";
    const parts = [all > count ? `The ${count} ${best} of ${all} ${plural(heading)}` : few];
    if (result.where) parts.push(result.where);
    const n = plot.series ? [] : result.series.flatMap((one) => one.n).filter(Boolean);
    if (n.length) parts.push(`n = ${[...new Set([Math.min(...n), Math.max(...n)])].join("–")}`);
    const without = (result.without ?? []).map((v) => values[v]);
    const named = without.slice(0, 5).join(", ") + (without.length > 5 ? ` and ${without.length - 5} others` : "");
    return `${parts.join(", ")}.` + (without.length ? ` No curve (${result.why}): ${named}.` : "");
  }

  function drawAll() {
    const view = look();
    for (const plot of plots) {
      const figure = document.getElementById(`plot-${plot.name}`), canvas = $(".canvas", figure);
      const result = (plot.series ? whole(plot) : builders[plot.name])(view);
      const isEmpty = !(result.series ?? result.cells).length;
      $(".empty", figure).hidden = !isEmpty;
      canvas.hidden = isEmpty;
      $(".keys", figure).replaceChildren();
      styleOf = styled([...new Set((result.series ?? []).map((one) => one.v))]);
      const draw = { lines: drawLines, dots: drawDots, points: drawPoints, grid: drawGrid }[plot.kind];
      const said = isEmpty ? [] : [draw(plot, canvas, result), explain(view, result, plot)].reverse();
      $(".shown", figure).textContent = said.filter(Boolean).join(" ");
    }
    return view;
  }

  function filterTables() {
    for (const row of $$("tr[data-keys]")) {
      const codes = row.dataset.keys.split(",");
      row.hidden = codes.some((code, a) => code !== "" && !state.chosen[a].has(Number(code)));
    }
    for (const table of $$(".table")) {
      const count = $$("tbody tr", table).filter((row) => row.hidden).length, note = $(".filtered", table);
      note.hidden = !count;
      note.textContent =
        `${count} row${count > 1 ? "s" : ""} hidden by the filters. ` +
        "Ranks, differences and marks stay those of the whole sweep.";
    }
  }

  /** The form as the state has it. */
  function fillForm(view) {
    const { by, top, of } = form.elements, { heading, values } = axes[state.by];
    axes.forEach((_, a) => {
      for (const box of $$(`input[name="axis-${a}"]`, form)) box.checked = state.chosen[a].has(Number(box.value));
    });
    for (const name of ["train", "bands", "full"]) if (form.elements[name]) form.elements[name].checked = state[name];
    if (by) by.value = String(state.by);
    if (top) {
      const known = [...top.options].map((option) => Number(option.value));
      if (!known.includes(state.top)) top.add(new Option(`${state.top} best`, String(state.top)));
      top.value = String(state.top);
    }
    if (of) {
      const found = [...new Set([...view.all, ...(state.of === null ? [] : [state.of])])].sort((v, w) => v - w);
      const options = found.map((v) => new Option(shorten(values[v], 40), String(v)));
      of.replaceChildren(new Option("best of all shown", ""), ...options);
      of.value = state.of === null ? "" : String(state.of);
    }
    $("#status").textContent = view.passing.length
      ? `${view.all.length} of ${values.length} ${plural(heading)} pass the filters.`
      : "Nothing passes the filters.";
  }

  function update({ keepsAddress = false } = {}) {
    const view = drawAll();
    filterTables();
    if (form) fillForm(view);
    if (keepsAddress) return;
    const hash = toHash();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  // ---------------------------------------------------------------- the form

  /** Only the checkboxes of a filter whose label has this text. */
  function find(field) {
    const text = field.value.trim().toLowerCase();
    for (const label of $$(".options label", field.closest("fieldset")))
      label.hidden = !label.textContent.toLowerCase().includes(text);
  }

  function onChange({ target }) {
    if (target.name.startsWith("axis-")) {
      const chosen = state.chosen[Number(target.name.slice(5))];
      chosen[target.checked ? "add" : "delete"](Number(target.value));
    } else if (target.name === "by") [state.by, state.of] = [Number(target.value), null];
    else if (target.name === "top") state.top = Number(target.value);
    else if (target.name === "of") state.of = target.value === "" ? null : Number(target.value);
    else if (target.type === "checkbox") state[target.name] = target.checked;
    else return;
    update();
  }

  function onClick({ target }) {
    if (target.dataset.reset !== undefined) {
      state = defaults();
      for (const field of $$("input[type=search]", form)) find(Object.assign(field, { value: "" }));
    } else if (target.dataset.all !== undefined) {
      const chosen = state.chosen[Number(target.value)];
      for (const label of $$(".options label", target.closest("fieldset")))
        if (!label.hidden) chosen[target.dataset.all ? "add" : "delete"](Number($("input", label).value));
    } else return;
    update();
  }

  if (form) {
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", onChange);
    form.addEventListener("click", onClick);
    form.addEventListener("input", ({ target }) => target.type === "search" && find(target));
    if (matchMedia("(max-width: 60rem)").matches) form.closest("details").open = false;
  }

  // ---------------------------------------------------------------- tables sort by data-value

  function sort(header) {
    const body = $("tbody", header.closest("table")), column = [...header.parentNode.children].indexOf(header);
    const isNumeric = header.dataset.numeric !== undefined, before = header.getAttribute("aria-sort");
    const isDown = before ? before === "ascending" : isNumeric;  // numbers: the largest first
    const value = (row) => row.children[column].dataset.value;
    const numbers = (a, b) => (Number(a) === Number(b) ? 0 : Number(a) - Number(b));  // ∞ − ∞ is not a number
    const compare = isNumeric ? numbers : (a, b) => a.localeCompare(b, "en", { numeric: true });
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

  // A link inside the page must not replace the address, which holds the filters.
  for (const link of $$('a[href^="#"]'))
    link.addEventListener("click", (event) => {
      event.preventDefault();
      const goal = document.getElementById(link.hash.slice(1));
      goal.scrollIntoView();
      goal.focus({ preventScroll: true });
    });

  // A page in a file may have no storage.
  const tried = (action) => {
    try { return action(); } catch { return null; }
  };

  const button = $("#theme");
  function nameButton() {
    const other = isDark() ? "Light" : "Dark";
    button.textContent = other;
    button.setAttribute("aria-label", `Switch to ${other.toLowerCase()} colours`);
  }

  function repaint() {
    nameButton();
    drawAll();
  }

  button.hidden = false;
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    tried(() => localStorage.setItem("optbench", theme));
    repaint();
  });
  for (const query of [matchMedia("(prefers-color-scheme: dark)"), matchMedia("print"), narrow])
    query.addEventListener("change", repaint);
  for (const name of ["beforeprint", "afterprint"])
    addEventListener(name, () => {
      isPrinting = name === "beforeprint";
      for (const details of $$("figcaption details")) details.open = isPrinting;
      drawAll();
    });
  addEventListener("hashchange", () => {
    if (location.hash && !location.hash.includes("=")) return;
    state = fromHash(location.hash.slice(1));
    update({ keepsAddress: true });
  });

  const theme = tried(() => localStorage.getItem("optbench"));
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  if (location.hash.includes("=")) state = fromHash(location.hash.slice(1));
  nameButton();
  update({ keepsAddress: true });
  document.documentElement.dataset.ready = "";
})();
