// Draws the stored figures of a page when they come into view. A browser keeps about 16 WebGL contexts, so only the last few 3D figures stay drawn.
(() => {
  const alive = [], limit = 8, depth3 = new Set(["mesh3d", "scatter3d", "surface", "isosurface", "volume", "cone", "streamtube"]);
  // Level texts that lie over one another or stick out: such a figure gets wider than the page and scrolls.
  const crowded = (box) => {
    const edge = box.getBoundingClientRect(), places = [...box.querySelectorAll("svg text")].filter((t) => !/rotate\(-?[1-9]/.test(t.getAttribute("transform"))).map((t) => t.getBoundingClientRect()).filter((b) => b.width > 0);
    return places.some((a, k) => a.left < edge.left - 2 || a.right > edge.right + 2 || places.slice(k + 1).some((b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3));
  };
  // Texts of a figure that is narrower than it was made; titles above one row of pictures take two lines before they run into one another.
  const places = (texts, axis) => new Set(texts.map((a) => a[axis])).size;
  const smaller = (texts, share, room) => {
    for (const a of texts) {
      const own = (a.font && a.font.size) || 14, size = Math.max(Math.min(own, 9), own * Math.max(share, 0.55)), spaces = [...(a.text || "").matchAll(/ /g)].map((m) => m.index);
      a.font = { ...a.font, size };
      if (!spaces.length || places(texts, "y") > 1 || a.text.length * size * 0.53 < room / places(texts, "x")) continue;
      const middle = spaces.reduce((p, q) => (Math.abs(q - a.text.length / 2) < Math.abs(p - a.text.length / 2) ? q : p));
      a.text = `${a.text.slice(0, middle)}<br>${a.text.slice(middle + 1)}`;
    }
  };
  const draw = async (box) => {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    const { data, layout = {}, frames } = JSON.parse(document.querySelector(`script[data-figure="${box.id}"]`).textContent);
    const width = layout.width, height = layout.height || 450, share = width ? Math.min(1, box.clientWidth / width) : 1;
    delete layout.width;                                            // narrow screens: as wide as there is room, and lower
    const pictures = data.every((t) => t.type === "heatmap");
    layout.height = share < 1 ? Math.max(height * share, Math.min(height, pictures ? 90 : layout.sliders ? 460 : 330)) : height;
    if (!pictures && (layout.scene && layout.xaxis || layout.xaxis3)) box.style.minWidth = "580px"; // unlike plots side by side
    else if (box.clientWidth < 480 && data.length > 1 && !(layout.legend || {}).orientation) {
      layout.legend = { ...layout.legend, orientation: "h", x: 0, y: 1.02, yanchor: "bottom" };
      if (layout.title && layout.title.text) layout.margin = { ...layout.margin, t: ((layout.margin || {}).t || 80) + 25 };
    }
    if (share < 0.8) smaller(layout.annotations || [], share, pictures ? box.clientWidth : Infinity);
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
  // Printed tables keep their columns, and formulas get a little smaller where they do not fit.
  document.querySelectorAll(".cell-output > pre").forEach((pre) => pre.classList.toggle("columns", (pre.textContent.match(/\S {2,}(?=\S)/g) || []).length > 1));
  addEventListener("load", () => document.fonts.ready.then(() => document.querySelectorAll(".katex-display").forEach((box) => {
    if (box.scrollWidth > box.clientWidth) box.style.fontSize = `${Math.max(0.7, box.clientWidth / box.scrollWidth - 0.01)}em`;
  })));
})();
