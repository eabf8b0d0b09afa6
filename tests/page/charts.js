// What the charts and the grid of the first record show: texts that leave their chart, and the values along the axes.
const out = {};
const box = (node) => node.getBoundingClientRect();
out.cut = [...document.querySelectorAll("svg text")].filter((text) => {
  const [inner, outer] = [box(text), box(text.closest("svg"))];
  return inner.left < outer.left || inner.right > outer.right || inner.top < outer.top || inner.bottom > outer.bottom;
}).map((text) => text.textContent);
const axis = document.querySelector("#cost-chart svg");
const foot = axis && Math.max(...[...axis.querySelectorAll("line.axis")].map((line) => box(line).bottom));
out.costs = axis ? [...axis.querySelectorAll("text:not(.name)")].filter((text) => box(text).top >= foot).map((text) => text.textContent) : [];
out.dots = [...document.querySelectorAll("#atlas .dots")].map((dots) => dots.getAttribute("title"));
const light = (rgb) => { const l = rgb.map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * l[0] + 0.7152 * l[1] + 0.0722 * l[2]; };
out.ink = ["light", "dark"].map((name) => {
  theme(name);
  return Math.min(...[...Array(101).keys()].map((share) => {
    const style = heat(share / 100), ground = light(style.match(/rgb\(([\d,]+)\)/)[1].split(",").map(Number));
    const ink = style.endsWith("#fff") ? 1 : light([...style.split("#")[1]].map((digit) => parseInt(digit, 16) * 17));
    return (Math.max(ground, ink) + 0.05) / (Math.min(ground, ink) + 0.05);
  }));
});
document.querySelector("button.cell").click();
out.detail = document.getElementById("detail").textContent;
out.across = [...document.querySelectorAll("#detail .heat thead th")].map((head) => head.textContent);
out.heat = [...document.querySelectorAll("#detail .heat tbody td")].map((cell) => cell.textContent);
const report = document.createElement("pre"); report.id = "report"; report.textContent = JSON.stringify(out); document.body.append(report);
