"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const put = (id, text) => { if ($(id)) $(id).textContent = text; };
  const count = (number) => number.toLocaleString("en-US");
  const size = (bytes) => {
    let value = bytes, unit = 0;
    while (value >= 1023.995 && unit < 4) { value /= 1024; unit += 1; }
    return unit ? `${value.toFixed(2)} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}` : `${bytes} B`;
  };

  // Bytes of the whole model after every block of the order, counted as the loader does.
  const level = data.kinds.map(() => 1);
  const sizesOf = (stack) => data.sizes[data.kinds[stack]];
  const floor = data.kinds.reduce((sum, _, stack) => sum + sizesOf(stack)[0], data.fixed);
  const totals = [floor];
  for (const stack of data.order) {
    const own = sizesOf(stack), at = level[stack]++;
    totals.push(totals[totals.length - 1] + own[at] - own[at - 1]);
  }
  level.fill(1);
  let loaded = 0;  // blocks of the order that `level` counts
  const last = data.order.length;
  const prefix = (bytes) => {  // most blocks of the order that fit
    let low = 0, high = last;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (totals[middle] <= bytes) low = middle; else high = middle - 1;
    }
    return low;
  };

  const log = (bytes) => Math.log2(bytes);
  const [left, right] = data.axis.map(log);
  const across = (bytes) => 100 * (log(bytes) - left) / (right - left);

  // The value on the straight line between measured points; null outside of them.
  const between = (points, bytes) => {
    for (let i = 0; i < points.length; i += 1) {
      const [at, value] = points[i];
      if (at === bytes) return { value, measured: true };
      if (at > bytes) {
        if (!i) return null;
        const [before, from] = points[i - 1];
        const share = (log(bytes) - log(before)) / (log(at) - log(before));
        return { value: from + share * (value - from), measured: false, names: [before, at] };
      }
    }
    return null;
  };
  const rows = data.rows.map(([blocks, name, speed, nats]) => ({ blocks, name, speed, nats, bytes: totals[blocks] }));
  const named = new Map(rows.map((row) => [row.bytes, row.name]));
  const speeds = rows.filter((row) => row.speed).map((row) => [row.bytes, 1 / row.speed]);
  const nats = rows.filter((row) => row.nats !== null).map((row) => [row.bytes, row.nats]);
  const how = (value) => value.measured ? "measured"
    : `interpolated, ${named.get(value.names[0])} to ${named.get(value.names[1])}`;

  const slider = $("budget"), dock = document.querySelector(".dock");
  const cells = [...document.querySelectorAll(".map td")];
  const inCell = cells.map(() => []);
  data.cells.forEach((cell, stack) => inCell[cell].push(stack));
  const tops = data.kinds.map((kind) => data.sizes[kind].length);
  const top = Math.max(...data.sizes.map((own) => own.length));
  const shown = new Array(cells.length);

  function paint(cell) {
    const stacks = inCell[cell];
    if (!stacks.length) return;
    const mean = stacks.reduce((sum, stack) => sum + level[stack], 0) / stacks.length;
    if (shown[cell] === mean) return;
    shown[cell] = mean;
    const share = top > 1 ? (mean - 1) / (top - 1) : 0;
    cells[cell].style.setProperty("--t", share.toFixed(3));
    cells[cell].classList.toggle("high", share > 0.5);
    cells[cell].firstElementChild.textContent = Number.isInteger(mean) ? mean : mean.toFixed(1);
    cells[cell].title = `${data.names[cell]}: level ${mean.toFixed(stacks.length > 1 ? 2 : 0)}`;
  }

  function load(blocks) {
    const changed = new Set();
    for (; loaded < blocks; loaded += 1) { level[data.order[loaded]] += 1; changed.add(data.cells[data.order[loaded]]); }
    for (; loaded > blocks; loaded -= 1) { level[data.order[loaded - 1]] -= 1; changed.add(data.cells[data.order[loaded - 1]]); }
    changed.forEach(paint);
    cells.forEach((cell) => cell.classList.remove("next"));
    if (blocks < last) cells[data.cells[data.order[blocks]]].classList.add("next");
  }

  function moveMarkers(bytes) {
    document.documentElement.style.setProperty("--x", across(bytes).toFixed(3));
    for (const chart of document.querySelectorAll("[data-chart]")) {
      const own = data.charts[chart.dataset.chart], point = between(own.points, bytes);
      const cursor = chart.querySelector(".cursor"), output = chart.querySelector("output");
      cursor.classList.toggle("away", !point);
      output.hidden = !point;
      if (!point) continue;
      cursor.style.setProperty("--y", (100 * (point.value - own.low) / (own.high - own.low)).toFixed(3));
      output.textContent = (point.measured ? "" : "≈ ") + point.value.toFixed(own.digits);
    }
  }

  function writeFigures(blocks, bytes) {
    const share = (100 * bytes / data.original).toFixed(1);
    const bits = 8 * (bytes - data.fixed) / data.weights;
    const low = level.reduce((a, b) => Math.min(a, b)), high = level.reduce((a, b) => Math.max(a, b));
    put("t-size", size(bytes));
    put("t-bytes", `${count(bytes)} bytes, ${share}% of the original`);
    put("t-bits", bits.toFixed(2));
    put("t-levels", low === high ? `all at level ${low}` : `levels ${low} to ${high}`);
    const loss = data.charts.loss && between(data.charts.loss.points, bytes);
    const seconds = between(speeds, bytes), nat = between(nats, bytes);
    let words = "not measured here", over = "";
    if (loss) {
      words = `${loss.value.toFixed(4)} bits/byte`;
      if (data.loss !== null) over = `${difference(loss.value - data.loss)} the original, `;
      put("t-loss-how", `${over}perplexity ${perplexity(nat.value)}; ${how(loss)}`);
    } else put("t-loss-how", "");
    put("t-loss", loss ? loss.value.toFixed(4) : "–");
    put("t-speed", seconds ? (1 / seconds.value).toPrecision(3) : "–");
    put("t-speed-how", seconds ? how(seconds) : words);
    put("now-size", size(bytes));
    put("now-loss", loss ? words : `${bits.toFixed(2)} bits per weight`);
    put("now-speed", seconds ? `${(1 / seconds.value).toPrecision(3)} tokens/s` : "");
    describeNext(blocks);
    writeLines(bytes);
    writeContext(bytes);
    slider.setAttribute("aria-valuetext", `${size(bytes)}, ${bits.toFixed(2)} bits per weight, ` +
      (loss ? `${words}, ${how(loss)}` : "loss not measured"));
    document.querySelectorAll("tr[data-bytes]").forEach((row) => row.classList.toggle("here", +row.dataset.bytes === bytes));
  }

  // The line that loads this budget, with its name where it has one.
  const shell = (text) => /^[\w.\/:@%+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  function writeLines(bytes) {
    const budget = named.get(bytes) ?? String(bytes);
    put("load-python", `import bitstack\nmodel = bitstack.load(${JSON.stringify(data.container)}, budget=${JSON.stringify(budget)})`);
    put("load-command", `compress-model generate ${shell(data.container)} --budget ${shell(budget)} --prompt "Once"`);
  }

  // Tokens of the longest text whose cache fits beside the model.
  const cacheOf = (tokens) => data.cache.reduce((sum, [fixed, token, most]) =>
    sum + fixed + token * (most === null ? tokens : Math.min(tokens, most)), 0);
  function contextIn(room) {
    let low = 0, high = data.positions ?? 2 ** 30;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (cacheOf(middle) <= room) low = middle; else high = middle - 1;
    }
    return low;
  }

  const memory = $("memory");
  function writeContext(bytes) {
    if (!memory) return;
    const tokens = contextIn(memory.value - bytes);
    put("t-context", count(tokens));
    const all = tokens === data.positions ? "all that the model reads; " : "";
    put("t-context-how", bytes > memory.value ? "the model alone is larger" : tokens
      ? `${all}its KV cache is ${size(cacheOf(tokens))}; what the program needs comes on top` : "the model fills it");
  }

  function describeNext(blocks) {
    if (blocks === last) {
      put("t-next", "none");
      put("t-next-how", "everything is loaded");
      return;
    }
    const stack = data.order[blocks], expert = data.experts[stack];
    const [layer, label] = split(data.names[data.cells[stack]]);
    put("t-next", label);
    put("t-next-how", `${layer}${expert === null ? "" : `expert ${expert}, `}level ${level[stack]} to ` +
      `${level[stack] + 1} of ${tops[stack]}, +${count(totals[blocks + 1] - totals[blocks])} bytes`);
  }

  const split = (name) => name.includes(", ") ? [`${name.split(", ")[0]}, `, name.split(", ")[1]] : ["", name];
  const difference = (number) => `${Math.abs(number).toFixed(4)} ${number < 0 ? "below" : "above"}`;
  const perplexity = (value) => value > 700 ? "too large" : Math.exp(value).toPrecision(4).replace(/e\+?/, "e");

  // A click or drag anywhere on a chart chooses the budget at that place.
  const choose = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    show(prefix(2 ** (left + (right - left) * (event.clientX - box.left) / box.width)));
  };
  document.querySelectorAll(".plot").forEach((plot) => {
    plot.addEventListener("click", (event) => { if (!event.target.closest("button")) choose(event); });
    plot.addEventListener("pointermove", (event) => { if (event.buttons === 1) choose(event); });
  });

  let now = -1;
  function show(blocks, { snap = true } = {}) {
    const bytes = totals[blocks];
    if (snap) slider.value = log(bytes);
    slider.style.setProperty("--fill", `${100 * (slider.value - slider.min) / ((slider.max - slider.min) || 1)}%`);
    if (blocks === now) return;
    now = blocks;
    load(blocks);
    moveMarkers(bytes);
    writeFigures(blocks, bytes);
  }

  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", () => {
    const code = $(button.dataset.from);
    const done = () => {
      put("copied", "Copied");
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; put("copied", ""); }, 1500);
    };
    const byHand = () => {  // where the page may not write to the clipboard
      getSelection().selectAllChildren(code);
      if (document.execCommand("copy")) done();
    };
    if (navigator.clipboard) navigator.clipboard.writeText(code.textContent).then(done, byHand); else byHand();
  }));
  if (memory) {
    const wanted = totals[data.start] + cacheOf(data.context);
    memory.value = [...memory.options].map((one) => one.value).find((bytes) => bytes >= wanted) ?? memory.lastElementChild.value;
    memory.addEventListener("change", () => writeContext(totals[now]));
  }

  // Names of dots: each where there is no other name, tick or dot; one without room is left out.
  const SPOTS = [[1, -1], [-1, -1], [1, 1], [-1, 1], [0, -1.6], [0, 1.6]];  // right or left, below or above
  const AIR = 2;  // pixels: letters are taller than their line
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom + AIR <= b.top || b.bottom + AIR <= a.top;
  function placeLabels(plot) {
    const labels = [...plot.querySelectorAll(".label")], ends = [labels.at(-1), labels[0], labels.at(-2)];
    const edge = plot.getBoundingClientRect(), taken = [...plot.querySelectorAll(".tick, .whole")].map((tick) => tick.getBoundingClientRect());
    const dots = new Map(labels.map((label) => {
      const box = label.parentElement.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
      return [label, { x, y, box, left: x - 6, right: x + 6, top: y - 6, bottom: y + 6 }];
    }));
    for (const label of new Set([...ends, ...labels].filter(Boolean))) {
      const dot = dots.get(label), { width, height } = label.getBoundingClientRect();
      const others = [...taken, ...[...dots].filter(([one]) => one !== label).map(([, other]) => other)];
      const boxes = SPOTS.map(([aside, up]) => {
        const left = dot.x + aside * (8 + width / 2) - width / 2, top = dot.y + up * (5 + height / 2) - height / 2;
        return { left, top, right: left + width, bottom: top + height };
      });
      const box = boxes.find((one) => one.left >= edge.left && one.right <= edge.right && one.top >= edge.top - 16 && others.every((other) => apart(one, other)));
      label.style.visibility = box ? "visible" : "hidden";
      if (!box) continue;
      taken.push(box);
      Object.assign(label.style, { left: `${box.left - dot.box.x}px`, top: `${box.top - dot.box.y}px`, right: "auto", bottom: "auto", transform: "none" });
    }
  }
  const map = document.querySelector(".map"), narrow = map.querySelector("td:not([colspan])");
  if (narrow) new ResizeObserver(() => map.classList.toggle("dense", narrow.offsetWidth < 18)).observe(map);
  document.documentElement.classList.add("placed");
  const resized = new ResizeObserver((entries) => entries.forEach((entry) => placeLabels(entry.target)));
  document.querySelectorAll(".plot:has(.label)").forEach((plot) => resized.observe(plot));

  slider.min = log(totals[0]);
  slider.max = log(totals[last]);
  slider.addEventListener("input", () => show(prefix(2 ** slider.value * (1 + 1e-12)), { snap: false }));
  slider.addEventListener("change", () => show(now));
  const page = Math.max(1, Math.round(last / 10));
  const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: page, PageDown: -page, Home: -Infinity, End: Infinity };
  slider.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    show(Math.min(last, Math.max(0, now + steps[event.key])));
  });
  document.querySelectorAll("button.mark").forEach((mark) => mark.addEventListener("click", () => show(prefix(+mark.dataset.bytes))));
  new IntersectionObserver(([entry]) => dock.classList.toggle("stuck", entry.intersectionRatio < 1), { threshold: [1], rootMargin: "-1px 0px 9999px 0px" }).observe(dock);

  document.querySelectorAll(".dock, .live, .cursor").forEach((part) => { part.hidden = false; });
  cells.forEach((_, cell) => paint(cell));
  show(data.start);
})();
