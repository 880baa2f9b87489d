"""
What can be measured of a page in the browser: names of its controls, contrast of its text, width.

Contrast and sizes as WCAG 2.1, 1.4.3 (AA): 4.5 to 1; 3 to 1 from 24 px on, or 18.66 px if bold.
"""

from typing import Any

from playwright.sync_api import Page as Tab

NAMELESS = """() => {
  const words = (node) => (node?.innerText ?? node?.textContent ?? "").trim();
  const name = (node) => node.getAttribute("aria-label")
    || (node.getAttribute("aria-labelledby") ?? "").split(" ").filter(Boolean)
      .map((id) => words(document.getElementById(id))).join(" ")
    || [...(node.labels ?? [])].map(words).join(" ") || words(node) || node.title
    || node.querySelector("img[alt], svg[aria-label]")?.getAttribute("aria-label");
  const controls = "input, select, textarea, button, a[href], [contenteditable=true], summary";
  return [...document.querySelectorAll(controls)]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }) && !name(node))
    .map((node) => node.outerHTML.slice(0, 200));
}"""

# Colours are drawn over one another on a canvas of one pixel, so that any notation of a colour
# and any transparency is understood.
FAINT = """() => {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const brush = canvas.getContext("2d", { willReadFrequently: true });
  const drawn = (colors) => {
    brush.globalCompositeOperation = "copy";
    brush.fillStyle = "white";
    brush.fillRect(0, 0, 1, 1);
    brush.globalCompositeOperation = "source-over";
    for (const color of colors) { brush.fillStyle = color; brush.fillRect(0, 0, 1, 1); }
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (color) => color
    .map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    const shown = { visibilityProperty: true, opacityProperty: true };
    if (!text || !node.checkVisibility(shown)) continue;
    if (node.closest(":disabled, [aria-disabled=true], script, style, .cm-editor")) continue;
    const style = getComputedStyle(node);
    const behind = [];
    for (let each = node; each; each = each.parentElement) {
      behind.unshift(getComputedStyle(each).backgroundColor);
    }
    const ink = node instanceof SVGElement ? style.fill : style.color;
    const [front, back] = [drawn([...behind, ink]), drawn(behind)].map(luminance);
    const [light, dark] = front > back ? [front, back] : [back, front];
    const contrast = (light + 0.05) / (dark + 0.05);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast >= (large ? 3 : 4.5)) continue;
    const place = node.closest("[id]")?.id ?? "";
    found.set(`${place} ${node.className} ${ink}`, `${contrast.toFixed(2)} ${place} “${text}”`);
  }
  return [...found.values()];
}"""

WIDE = """() => [...document.querySelectorAll("body *")]
  .filter((node) => node.checkVisibility() && node.getBoundingClientRect().right > innerWidth + 1)
  .map((node) => node.outerHTML.slice(0, 120))"""


def nameless_controls(tab: Tab) -> Any:
    """Visible controls that a screen reader could not name, as HTML."""
    return tab.evaluate(NAMELESS)


def faint_texts(tab: Tab) -> Any:
    """Visible text with too little contrast: the contrast, where it stands, what it says."""
    return tab.evaluate(FAINT)


def too_wide(tab: Tab) -> Any:
    """What makes the page scroll sideways; [] where it does not scroll."""
    width, room = tab.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    return (tab.evaluate(WIDE) or ["?"]) if width > room else []
