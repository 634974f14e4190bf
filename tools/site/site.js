// Draws the stored figures of a page when they come into view. A browser keeps about 16 WebGL contexts, so only the last few 3D figures stay drawn.
(() => {
  const alive = [], limit = 8, depth3 = new Set(["mesh3d", "scatter3d", "surface", "isosurface", "volume", "cone", "streamtube"]);
  // Level texts that lie over one another or stick out: such a figure gets wider than the page and scrolls.
  const crowded = (box) => {
    const edge = box.getBoundingClientRect(), places = [...box.querySelectorAll("svg text")].filter((t) => !/rotate\(-?[1-9]/.test(t.getAttribute("transform"))).map((t) => t.getBoundingClientRect()).filter((b) => b.width > 0);
    return places.some((a, k) => a.left < edge.left - 2 || a.right > edge.right + 2 || places.slice(k + 1).some((b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 3 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 6));
  };
  // A text in two lines of about one length; one word stays what it is.
  const halved = (text) => {
    const spaces = [...text.matchAll(/ /g)].map((m) => m.index), off = (k) => Math.abs(k - text.length / 2);
    if (!spaces.length) return text;
    const middle = spaces.reduce((p, q) => (off(q) < off(p) ? q : p));
    return `${text.slice(0, middle)}<br>${text.slice(middle + 1)}`;
  };
  // Texts of a figure that is narrower than it was made; titles above one row of pictures take two lines before they run into one another.
  const places = (texts, axis) => new Set(texts.map((a) => a[axis])).size;
  const smaller = (texts, share, each) => {
    for (const a of texts) {
      const own = (a.font && a.font.size) || 14, size = Math.max(Math.min(own, 9), own * Math.max(share, 0.55));
      const long = (a.text || "").length * size * 0.53 / each, rows = places(texts, "y");
      a.font = { ...a.font, size: rows > 1 ? size / Math.min(Math.max(long, 1), 1.4) : size };
      if (rows === 1 && long >= 1) a.text = halved(a.text);
    }
  };
  // The columns of a figure: where they stand, what stands in each, and whether that is a picture.
  const columns = (data, layout) => {
    const found = new Map();
    for (const key of Object.keys(layout).filter((k) => /^(xaxis|scene)\d*$/.test(k))) {
      const flat = key.startsWith("xaxis"), id = key.replace("axis", ""), own = layout[key].domain || [0, 1], domain = flat ? own : own.x || [0, 1];
      const traces = data.filter((t) => (flat ? !t.scene && (t.xaxis || "x") === id : t.scene === id)), name = domain.map((v) => v.toFixed(2)).join();
      const column = found.get(name) || { domain, members: [], picture: true };
      column.members.push(flat ? [layout[key], (layout[key.replace("x", "y")] ||= {})] : [layout[key]]);
      column.picture &&= flat && layout[key].visible === false && traces.every((t) => t.type === "heatmap");
      column.traces = [...(column.traces || []), ...traces];
      found.set(name, column);
    }
    return [...found.values()].sort((p, q) => p.domain[0] - q.domain[0]);
  };
  // Plots that stand side by side come below one another, pictures next to one another share a row; returns the height of all.
  const stack = (data, layout, found, width) => {
    const rows = [], title = 28;
    for (const c of found) c.picture && rows.length && rows.at(-1)[0].picture ? rows.at(-1).push(c) : rows.push([c]);
    const foot = rows.map(([c]) => (c.members.some(([one, other]) => other && one.visible !== false) ? 52 : 4)); // numbers and names of axes
    const high = rows.map((row, r) => title + foot[r] + (row[0].picture ? Math.min(260, width / row.length) : 230 * Math.max(1, row[0].members.length * 0.8)));
    const total = high.reduce((a, h) => a + h), old = found.map((c) => c.domain);
    let below = total;
    rows.forEach((row, r) => {
      const top = (below - title) / total, low = (below - high[r] + foot[r]) / total, deep = (v) => low + v * (top - low);
      below -= high[r];
      row.forEach((c, k) => {
        const x = [(k + 0.02 * (k > 0)) / row.length, (k + 1) / row.length], from = old[found.indexOf(c)];
        for (const a of (layout.annotations || []).filter((a) => !a.placed && a.xref === "paper" && a.x >= from[0] && a.x <= from[1])) Object.assign(a, { placed: true, x: x[0] + ((a.x - from[0]) / (from[1] - from[0])) * (x[1] - x[0]), y: deep(a.y) });
        for (const [one, other] of c.members) {
          if (other) {
            Object.assign(other, { domain: (other.domain || [0, 1]).map(deep) });
            one.domain = x;
            if (one.visible !== false && other.showticklabels === false) delete other.showticklabels; // of a shared axis
          } else one.domain = { x, y: ((one.domain || {}).y || [0, 1]).map(deep) };
        }
        for (const t of c.traces) for (const bar of [t.colorbar, (t.marker || {}).colorbar].filter(Boolean)) Object.assign(bar, { x: 1.02, xanchor: "left", y: deep(0.5), yanchor: "middle", lenmode: "fraction", len: top - low });
      });
    });
    for (const a of layout.annotations || []) delete a.placed;
    return total;
  };
  const draw = async (box) => {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    const { data, layout = {}, frames } = JSON.parse(document.querySelector(`script[data-figure="${box.id}"]`).textContent);
    const width = layout.width, height = layout.height || 450, share = width ? Math.min(1, box.clientWidth / width) : 1;
    const narrow = box.clientWidth < 480;
    if (narrow && (layout.margin || {}).l > 0.4 * box.clientWidth) { // long names beside bars
      layout.margin.l *= 0.65;
      for (const key of Object.keys(layout).filter((k) => /^yaxis\d*$/.test(k))) layout[key].tickfont = { ...layout[key].tickfont, size: 9 };
    }
    const { l = 80, r = 80, t = 100, b = 80 } = layout.margin || {}, found = columns(data, layout), pictures = data.every((trace) => trace.type === "heatmap");
    delete layout.width;                                            // narrow screens: as wide as there is room, and lower
    if (box.clientWidth < 580 && !pictures && found.length > 1) layout.height = t + b + stack(data, layout, found, box.clientWidth - l - r);
    else if (share < 1) layout.height = pictures ? t + b + (height - t - b) * share : Math.max(height * share, Math.min(height, layout.sliders ? 460 : 330));
    else layout.height = height;
    const plot = box.clientWidth - l - r, named = data.filter((trace) => trace.name && trace.showlegend !== false);
    let above = t;
    if (narrow && layout.title && layout.title.text) {              // a line more for a long title
      const text = layout.title.text, size = (layout.title.font || {}).size || 17;
      Object.assign(layout.title, { y: 1, yref: "container", yanchor: "top", pad: { ...layout.title.pad, t: 10 } });
      layout.title.text = text.length * size * 0.5 > box.clientWidth - 40 ? halved(text) : text;
      above += layout.title.text === text ? 0 : 18;
    }
    if (narrow && data.length > 1 && !pictures && !(layout.legend || {}).orientation) {
      const each = 45 + 7 * Math.max(0, ...named.map((trace) => trace.name.length)), lines = Math.ceil(named.length / Math.max(1, Math.floor(plot / each)));
      layout.legend = { ...layout.legend, orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
      if (layout.legend.title) above += 20, (layout.legend.title.side = "top");
      if (layout.showlegend !== false) above += (layout.title && layout.title.text ? 25 : 0) + 20 * Math.max(0, lines - 1);
    }
    let under = b;
    for (const key of Object.keys(layout).filter((k) => narrow && /^xaxis\d*$/.test(k))) {
      const name = layout[key].title || {}, long = (name.text || "").length * ((name.font || {}).size || 14) * 0.5 > plot;
      if (long) Object.assign(name, { text: halved(name.text) });
      if (long && under === b) under += 18;
    }
    layout.margin = { ...layout.margin, t: above, b: under };
    layout.height += above - t + under - b;
    if (share < 0.8) smaller(layout.annotations || [], share, pictures ? box.clientWidth / found.length : Infinity);
    const lines = (layout.annotations || []).filter((a) => /<br>/.test(a.text) && a.y === 1).map((a) => 2.8 * ((a.font || {}).size || 14)), lack = Math.max(layout.margin.t, ...lines) - layout.margin.t;
    layout.margin.t += lack;
    layout.height += lack;
    box.style.height = `${layout.height}px`;
    await Plotly.newPlot(box, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false, displayModeBar: false });
    for (let room = 1.2 * box.clientWidth; room < Math.min(width || 720, 900) && crowded(box); room *= 1.2) {
      box.style.minWidth = `${Math.round(room)}px`;
      await Plotly.Plots.resize(box);
    }
    if (frames && frames.length) await Plotly.addFrames(box, frames);
    if (!data.some((t) => depth3.has(t.type))) return;
    alive.push(box);
    if (alive.length > limit) { const old = alive.shift(); Plotly.purge(old); delete old.dataset.drawn; watcher.unobserve(old); watcher.observe(old); }
  };
  const watcher = new IntersectionObserver((seen) => seen.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)), { rootMargin: "300px" });
  document.querySelectorAll(".figure-live").forEach((box) => watcher.observe(box));
  // Printed tables keep their columns, names in tables may break after a mark, and formulas get a little smaller where they do not fit.
  document.querySelectorAll(".cell-output > pre").forEach((pre) => pre.classList.toggle("columns", (pre.textContent.match(/\S {2,}(?=\S)/g) || []).length > 1));
  document.querySelectorAll("main td code").forEach((code) => { if (!code.children.length) code.innerHTML = code.innerHTML.replace(/[_/.=](?=\w)/g, "$&<wbr>"); });
  addEventListener("load", () => document.fonts.ready.then(() => document.querySelectorAll(".katex-display").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.style.fontSize = `${Math.max(0.7, box.clientWidth / box.scrollWidth - 0.01)}em`;
  })));
})();
