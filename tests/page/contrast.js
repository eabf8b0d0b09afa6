// The contrast of every text that is shown with what it stands on, in both themes.
const parse = (text) => { const c = text.match(/[\d.]+/g).map(Number); return { rgb: c.slice(0, 3), a: c.length > 3 ? c[3] : 1 }; };
const light = (rgb) => { const l = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
const ground = (node) => { for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor); if (c.a === 1) return c.rgb; } return [255, 255, 255]; };
const out = {};
for (const theme of ["light", "dark"]) {
  document.querySelector(`[data-theme-choice=${theme}]`).click();
  out[theme] = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walker.nextNode(); text; text = walker.nextNode()) {
    const node = text.parentElement;
    if (!text.textContent.trim() || !node.getClientRects().length || node.closest("script, .live, .skip")) continue;
    const style = getComputedStyle(node);
    const ink = parse(node.closest("svg") ? style.fill : style.color);
    const opacity = Number(style.opacity), back = ground(node.closest("svg") ? node.closest("div") : node);
    const mixed = ink.rgb.map((value, at) => value * opacity * ink.a + back[at] * (1 - opacity * ink.a));
    const found = ratio(mixed, back);
    if (found < 4.5) out[theme].push(`${found.toFixed(2)} ${node.tagName}.${node.className} ${text.textContent.trim().slice(0, 40)}`);
  }
}
out.wide = document.documentElement.scrollWidth <= innerWidth;
const report = document.createElement("pre"); report.id = "report"; report.textContent = JSON.stringify(out); document.body.append(report);
