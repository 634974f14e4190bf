// Draws the stored figures of a page when they come into view. A browser keeps about 16 WebGL contexts, so only the last few 3D figures stay drawn.
(() => {
  const alive = [], limit = 8, depth3 = new Set(["mesh3d", "scatter3d", "surface", "isosurface", "volume", "cone", "streamtube"]);
  const draw = async (box) => {
    if (box.dataset.drawn) return;
    box.dataset.drawn = "yes";
    const { data, layout = {}, frames } = JSON.parse(document.querySelector(`script[data-figure="${box.id}"]`).textContent);
    const width = layout.width, height = layout.height || 450, share = width ? Math.min(1, box.clientWidth / width) : 1;
    delete layout.width;                                            // narrow screens: as wide as there is room, and lower
    const pictures = data.every((t) => t.type === "heatmap");
    layout.height = share < 1 ? Math.max(height * share, Math.min(height, pictures ? 90 : 260)) : height;
    if (share < 0.8) for (const a of layout.annotations || []) a.font = { ...a.font, size: ((a.font && a.font.size) || 14) * Math.max(share, 0.55) };
    box.style.height = `${layout.height}px`;
    await Plotly.newPlot(box, data, { ...layout, autosize: true }, { responsive: true, displaylogo: false, displayModeBar: false });
    if (frames && frames.length) await Plotly.addFrames(box, frames);
    if (!data.some((t) => depth3.has(t.type))) return;
    alive.push(box);
    if (alive.length > limit) { const old = alive.shift(); Plotly.purge(old); delete old.dataset.drawn; watcher.unobserve(old); watcher.observe(old); }
  };
  const watcher = new IntersectionObserver((seen) => seen.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)), { rootMargin: "300px" });
  document.querySelectorAll(".figure-live").forEach((box) => watcher.observe(box));
})();
