// The page of lzpenalty.view. The text stands in blocks of plain text; a block that comes near the window gets an element for
// each of its pieces, tinted, within one for each phrase, so that a long text costs what is looked at. Tokens, pieces, phrases
// and blocks are counted from 0; view.py says what the arrays of `data` hold.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const [header, main, svg, map, footer] = ["header", "main", "svg", "#map", "footer"].map((name) => document.querySelector(name));
const readout = footer.querySelector("output");
const blocks = [...main.querySelectorAll("div")];

// ---- The text: where pieces, phrases and blocks begin.
function starts(sizes) {
  const sums = new Int32Array(sizes.length + 1);
  sizes.forEach((size, i) => { sums[i + 1] = sums[i] + size; });
  return sums;
}
const every = (array, step, from) => array.filter((_, i) => i % step === from);
const counts = new Int32Array(data.pieces.length).fill(1);
for (let i = 0; i < data.clusters.length; i += 2) counts[data.clusters[i]] = data.clusters[i + 1];
const pieceStart = starts(counts); // tokens
const blockStart = starts(data.blocks); // pieces
const phraseStart = starts(every(data.phrases, 2, 0)); // tokens
const distance = every(data.phrases, 2, 1);
const loops = every(data.loops, 3, 0).map((start, i) => (
  { start, end: start + data.loops[3 * i + 1], period: data.loops[3 * i + 2],
    first: data.bars[2 * i], last: data.bars[2 * i + 1] })); // beside which lines its bar stands
const tokens = data.bits.length;

function indexOf(begins, value) { // of the last that begins at or before `value`
  let low = 0, high = begins.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (begins[middle] <= value) low = middle; else high = middle;
  }
  return low;
}
const pieceOf = (token) => indexOf(pieceStart, token);
const phraseOf = (token) => indexOf(phraseStart, token);
function firstPiece(phrase) { // that begins in it; -1 for a phrase within a character
  const piece = pieceOf(phraseStart[phrase]);
  const next = pieceStart[piece] < phraseStart[phrase] ? piece + 1 : piece;
  return pieceStart[next] < phraseStart[phrase + 1] ? next : -1;
}
const phraseAt = (token) => phraseOf(pieceStart[pieceOf(token)]); // the one whose element holds the token
const blockOf = (piece) => indexOf(blockStart, piece);

function bitsOf(from, to) {
  let sum = 0;
  for (let token = from; token < to; token++) sum += data.bits[token];
  return sum / 10;
}
function level(bits) { return data.literal ? Math.min(8, Math.round((8 * bits) / data.literal)) : 0; }

// ---- Painting.
const elements = new Array(counts.length);
function elementAt(piece) {
  paint(blockOf(piece));
  return elements[piece];
}
const elementOf = (token) => elementAt(pieceOf(token));

function paint(b) {
  if (elements[blockStart[b]]) return;
  const text = blocks[b].textContent, painted = document.createDocumentFragment();
  let phrase = null, at = 0;
  for (let piece = blockStart[b]; piece < blockStart[b + 1]; piece++) {
    const [from, to] = [pieceStart[piece], pieceStart[piece + 1]];
    const index = phraseOf(from);
    if (phrase?.index !== index) {
      phrase = Object.assign(document.createElement("span"), { className: "phrase", tabIndex: -1, index });
      painted.append(phrase);
    }
    const element = document.createElement("span");
    element.className = `b${level(bitsOf(from, to) / (to - from))}`;
    element.textContent = text.slice(at, (at += data.pieces[piece]));
    element.piece = piece;
    elements[piece] = element;
    phrase.append(element);
  }
  blocks[b].replaceChildren(painted);
  const [from, to] = [pieceStart[blockStart[b]], pieceStart[blockStart[b + 1]]];
  for (const loop of loops) {
    if (loop.first >= to || loop.last <= from) continue;
    const mark = Object.assign(document.createElement("button"), { className: "loop", tabIndex: -1, loop });
    mark.ariaLabel = mark.title = mark.dataset.label = loop.first >= from
      ? `period ${count(loop.period)} · ${turns(loop)} turns` : `turn ${count(1 + Math.floor((from - loop.start) / loop.period))}`;
    mark.classList.toggle("on", loop.first < from);
    blocks[b].append(mark);
  }
  resized.observe(blocks[b]);
}

// The mark of a loop stands beside the lines that it covers. Where several share a line they stand side by side, and the first
// has its label; the others say theirs when they are pointed at.
function place(b) {
  const [from, to] = [pieceStart[blockStart[b]], pieceStart[blockStart[b + 1]]];
  const { top: above, height } = blocks[b].getBoundingClientRect();
  const bottoms = []; // of the last mark in each column
  let labelled = -Infinity;
  for (const mark of blocks[b].querySelectorAll(".loop")) {
    const { first, last } = mark.loop;
    const top = first < from ? 0 : elementOf(first).getClientRects()[0].top - above;
    const bottom = last > to ? height : [...elementOf(last - 1).getClientRects()].at(-1).bottom - above;
    const free = bottoms.findIndex((end) => end <= top + 1), column = free < 0 ? bottoms.length : free;
    bottoms[column] = bottom;
    mark.style.top = `${top}px`;
    mark.style.height = `${Math.max(6, bottom - top)}px`;
    mark.style.marginLeft = `${-6 * Math.min(column, 2)}px`;
    mark.classList.toggle("mute", top < labelled + 20);
    if (top >= labelled + 20) labelled = top;
  }
}
const resized = new ResizeObserver((entries) => {
  for (const { target } of entries) if (target.querySelector(".loop")) place(blocks.indexOf(target));
  update();
});
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) if (isIntersecting) paint(blocks.indexOf(target));
}, { root: document, rootMargin: "75% 0px" });

// ---- What is said about a phrase, and the line to where it stood.
const count = (number) => number.toLocaleString("en");
const turns = (loop) => count(Math.floor((10 * (loop.end - loop.start)) / loop.period) / 10);
const tokenWord = (number) => `${count(number)} ${number === 1 ? data.unit.replace(/s$/, "") : data.unit}`;
const bitWord = (bits) => `${bits.toFixed(1)} bits`;
let pointed = null, shown = null; // {phrase, piece}: under the pointer or in focus, and drawn

function show(what) {
  if (what?.phrase === shown?.phrase && what?.piece === shown?.piece) return;
  shown = what;
  readout.replaceChildren();
  if (shown) readout.append(...describe(shown));
  draw();
}

function describe({ phrase, piece }) {
  const [from, to] = [phraseStart[phrase], phraseStart[phrase + 1]];
  const parts = [];
  if (piece !== undefined && (pieceStart[piece] !== from || pieceStart[piece + 1] !== to)) {
    const word = elements[piece].textContent.replaceAll("\n", "↵").replaceAll("\t", "⇥").trim() || "␣";
    parts.push(`“${word}” ${bitWord(bitsOf(pieceStart[piece], pieceStart[piece + 1]))}`);
  }
  const where = to - from === 1 ? count(from) : `${count(from)}–${count(to - 1)}`;
  parts.push(`${tokenWord(to - from)} at ${where}: ${bitWord(bitsOf(from, to))}`);
  const back = distance[phrase];
  parts.push(back
    ? `stood ${count(back)} before, at ${count(from - back)}${back < to - from ? ", and repeats itself" : ""}`
    : `new in a window of ${count(data.window)}`);
  const loop = loops.find((one) => one.start < to && from < one.end);
  const words = [parts.join(" · ")];
  if (loop) {
    const mark = document.createElement("b");
    mark.textContent = `loop at ${count(loop.start)}: period ${count(loop.period)}, ${turns(loop)} turns`;
    words.push(" · ", mark);
  }
  return words;
}

let fontSize = 17;

// A box without its padding, which takes up what is between two lines.
function tight({ left, top, right, bottom }) {
  const middle = (top + bottom) / 2, half = 0.68 * fontSize;
  return { left, top: Math.max(top, middle - half), right, bottom: Math.min(bottom, middle + half) };
}

// The boxes of the tokens from `from` to `to` that are in the window, one a line.
function boxes(from, to) {
  const lines = [], range = document.createRange();
  for (let b = blockOf(pieceOf(from)); b < blocks.length && pieceStart[blockStart[b]] < to; b++) {
    const area = blocks[b].getBoundingClientRect();
    if (area.bottom < 0) continue;
    if (area.top > innerHeight) break;
    paint(b);
    range.setStartBefore(elements[Math.max(pieceOf(from), blockStart[b])]);
    range.setEndAfter(elements[Math.min(pieceOf(to - 1), blockStart[b + 1] - 1)]);
    for (const rect of range.getClientRects()) {
      const { left, top, right, bottom } = tight(rect);
      const line = lines.find((one) => Math.min(one.bottom, bottom) - Math.max(one.top, top) > (bottom - top) / 2);
      if (!line) lines.push({ left, top, right, bottom });
      else Object.assign(line, { left: Math.min(line.left, left), right: Math.max(line.right, right) });
    }
  }
  return lines;
}
const outline = (lines) => lines
  .map(({ left, top, right, bottom }) => `M${left - 1},${top}H${Math.max(right, left + 5) + 1}V${bottom}H${left - 1}Z`)
  .join("");

function draw() {
  const back = shown && distance[shown.phrase];
  svg.classList.toggle("on", Boolean(shown));
  if (!shown) return;
  const [from, to] = [phraseStart[shown.phrase], phraseStart[shown.phrase + 1]];
  const set = (name, path) => svg.querySelector(name).setAttribute("d", path);
  set(".here", outline(boxes(from, to)));
  set(".there", back ? outline(boxes(from - back, Math.min(from, to - back))) : "");
  const [a, z] = [elementOf(from), elementOf(from - back)].map((element) => tight(element.getClientRects()[0]));
  const [x, u] = [a.left + Math.min(8, (a.right - a.left) / 2), z.left + Math.min(8, (z.right - z.left) / 2)];
  const beside = z.bottom > a.top; // on one line: an arc above it
  const [y, v] = [a.top, beside ? z.top : z.bottom];
  const bend = beside ? 14 + Math.abs(x - u) / 12 : Math.min(160, Math.max(12, (y - v) / 2));
  set(".line", back ? `M${x},${y}C${x},${y - bend} ${u},${beside ? v - bend : v + bend} ${u},${v}` : "");
  const end = svg.querySelector(".end");
  end.setAttribute("cx", back ? u : -9);
  end.setAttribute("cy", v);
}

// ---- Pointer and keys.
main.addEventListener("pointermove", ({ target }) => {
  const phrase = target.closest(".phrase");
  pointed = phrase && { phrase: phrase.index, piece: target.piece };
  show(pointed ?? focused());
});
main.addEventListener("pointerleave", () => { pointed = null; show(focused()); });
main.addEventListener("focusin", ({ target }) => { if (target.index !== undefined) show({ phrase: target.index }); });
main.addEventListener("focusout", () => show(pointed));
main.addEventListener("click", ({ target }) => { if (target.loop) go(phraseAt(target.loop.start)); });

function focused() {
  const { index } = document.activeElement;
  return index === undefined ? null : { phrase: index };
}

// One phrase of all is reached with the tabulator; the arrows go on from there.
let stop = null;
function go(phrase, block) {
  const element = elementAt(firstPiece(phrase));
  if (stop) stop.tabIndex = -1;
  stop = element.parentNode;
  stop.tabIndex = 0;
  stop.focus({ preventScroll: true });
  const { top, bottom } = element.getClientRects()[0];
  const inside = top > header.offsetHeight && bottom < innerHeight - footer.offsetHeight;
  if (!inside || block === "center") element.scrollIntoView({ block: "center" });
}

function here() { // the phrase in focus, or that before the first which can be seen
  return focused()?.phrase ?? phraseOf(topToken()) - 1;
}
function topToken() {
  let b = blocks.findIndex((block) => block.getBoundingClientRect().bottom > header.offsetHeight);
  if (b < 0) b = blocks.length - 1;
  paint(b);
  for (let piece = blockStart[b]; piece < blockStart[b + 1]; piece++) {
    if (elements[piece].getBoundingClientRect().top >= header.offsetHeight) return pieceStart[piece];
  }
  return pieceStart[blockStart[b]];
}

const trail = [];
const keys = {
  ArrowRight() { step(1); },
  ArrowLeft() { step(-1); },
  Enter() {
    const phrase = focused()?.phrase;
    if (phrase === undefined || !distance[phrase]) return;
    trail.push(phrase);
    go(phraseAt(phraseStart[phrase] - distance[phrase]));
  },
  Backspace() { if (trail.length) go(trail.pop()); },
  Escape() { document.activeElement.blur(); },
  l() { nextLoop(1); },
  L() { nextLoop(-1); },
};
function step(by) {
  let phrase = here() + by;
  while (phrase > 0 && phrase < distance.length && firstPiece(phrase) < 0) phrase += by;
  if (phrase >= 0 && phrase < distance.length) go(phrase);
}
function nextLoop(by) {
  if (!loops.length) return;
  const at = here(), first = loops.map((loop) => phraseAt(loop.start));
  const ahead = by > 0 ? first.find((phrase) => phrase > at) : first.findLast((phrase) => phrase < at);
  go(ahead ?? first.at(by > 0 ? 0 : -1), "center");
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key] || !blocks.length) return;
  event.preventDefault();
  pointed = null;
  keys[event.key]();
});

// ---- The map: the whole text from top to bottom, tinted by the mean of the bits.
function drawMap() {
  const height = innerHeight - header.offsetHeight - footer.offsetHeight - 16;
  map.style.top = `${header.offsetHeight + 8}px`;
  map.style.height = `${height}px`;
  map.style.display = main.offsetHeight > 1.5 * innerHeight && height > 0 ? "block" : "none";
  if (map.style.display === "none") return;
  const canvas = map.querySelector("canvas"), scale = devicePixelRatio;
  [canvas.width, canvas.height] = [14 * scale, height * scale];
  const context = canvas.getContext("2d");
  const colours = [...document.querySelectorAll(".ramp i")].map((swatch) => getComputedStyle(swatch).backgroundColor);
  for (let row = 0; row < canvas.height; row++) {
    const from = Math.floor((row * tokens) / canvas.height);
    const to = Math.max(from + 1, Math.floor(((row + 1) * tokens) / canvas.height));
    context.fillStyle = colours[level(bitsOf(from, to) / (to - from))];
    context.fillRect(5 * scale, row, 9 * scale, 1);
  }
  context.fillStyle = getComputedStyle(svg.querySelector(".end")).stroke;
  for (const { start, end } of loops) {
    const [top, bottom] = [start, end].map((token) => (token * canvas.height) / tokens);
    context.fillRect(0, top, 3 * scale, Math.max(scale, bottom - top));
  }
}

// Where the window is in the text: the token at a height, between the ends of its block.
function tokenAt(y) {
  let low = 0, high = blocks.length;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (blocks[middle].getBoundingClientRect().top <= y) low = middle; else high = middle;
  }
  const { top, height } = blocks[low].getBoundingClientRect();
  const [from, to] = [pieceStart[blockStart[low]], pieceStart[blockStart[low + 1]]];
  return from + (to - from) * Math.min(1, Math.max(0, (y - top) / height));
}
function markMap() {
  if (map.style.display !== "block") return;
  const [top, bottom] = [header.offsetHeight, innerHeight - footer.offsetHeight].map((y) => (100 * tokenAt(y)) / tokens);
  Object.assign(map.querySelector("div").style, { top: `${top}%`, height: `${bottom - top}%` });
}
function drag({ buttons, clientY }) {
  if (!buttons) return;
  const { top, height } = map.getBoundingClientRect();
  const token = Math.floor(Math.min(1, Math.max(0, (clientY - top) / height)) * (tokens - 1));
  elementOf(token).scrollIntoView({ block: "center" });
}
map.addEventListener("pointerdown", (event) => { map.setPointerCapture(event.pointerId); drag(event); });
map.addEventListener("pointermove", drag);

let due = false;
function update() { // once a frame
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; draw(); markMap(); });
}
function layout() {
  fontSize = parseFloat(getComputedStyle(main).fontSize);
  drawMap();
  update();
}

// ---- Begin. A block that is not laid out is as high as its characters make it likely.
if (blocks.length) {
  for (const block of blocks) {
    let lines = 0;
    for (const line of block.textContent.replace(/\n$/, "").split("\n")) lines += Math.max(1, Math.ceil(line.length / 80));
    block.style.containIntrinsicBlockSize = `auto ${1.75 * lines}rem`;
    near.observe(block);
  }
  paint(0);
  stop = elements[0].parentNode;
  stop.tabIndex = 0;
  addEventListener("scroll", update, { passive: true });
  addEventListener("resize", layout);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", layout);
  document.getElementById("mono").addEventListener("change", ({ target }) => {
    main.classList.toggle("mono", target.checked);
    layout();
  });
  layout();
}
readout.textContent = blocks.length ? "Point at a word, or press →" : "";
