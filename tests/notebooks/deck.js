/* Sets the formulas, spreads what is too much for a slide over more slides, then starts reveal.js.

   A page may be BOTTOM high. Pictures and code give way first, within limits that a room can still read;
   then the slide is cut: between cells where that can be, else between the blocks of a cell. */
"use strict";

const BOTTOM = 640;
/* height of pictures, scale of code and tables, size of prose: in pixels of a slide of 1280 x 720 */
const COMFORT = [[560, 1, 27], [480, 1, 27], [420, 1, 27], [420, 0.9, 26], [360, 0.9, 25], [330, 0.85, 24]];
/* for the sake of one slide less, tables of results don't get smaller than this */
const TIGHT = [...COMFORT, [330, 0.8, 23], [300, 0.8, 22]];
const HARDSHIP = [...COMFORT, [330, 0.75, 24], [280, 0.7, 22]];
const LITTLE = 0.3; /* of a page: not worth one of its own */

function page(section) {
  return section.querySelector(".page");
}

function give(section, [figure, code, prose]) {
  page(section).style.setProperty("--figure", `${figure}px`);
  page(section).style.setProperty("--code", code);
  page(section).style.setProperty("--prose", `${prose}px`);
}

function fits(section, steps) {
  for (const step of steps) {
    give(section, step);
    if (page(section).getBoundingClientRect().height <= BOTTOM) return true;
  }
  return false;
}

/* Sheets of many small pictures are nothing when they are small: these give way less, and what is said of
   a tall one stands beside it. */
function floor(image) {
  const ratio = image.naturalWidth / image.naturalHeight;
  if (!image.src.startsWith("data:image/jpeg") || ratio >= 2) return;
  image.style.setProperty("--floor", ratio < 1.3 ? "520px" : "440px");
  const said = image.closest(".block").nextElementSibling?.firstElementChild?.tagName;
  if (ratio < 1.3 && (said === "P" || said === "UL")) image.classList.add("beside");
}

/* A heading, or a line all in bold: it stays with what follows. */
function heads(block) {
  const first = block.firstElementChild;
  const bold = first?.tagName === "P" && first.children.length === 1 && first.firstElementChild.tagName === "STRONG"
    && first.textContent.trim() === first.firstElementChild.textContent.trim();
  return bold || /^H[1-6]$/.test(first?.tagName ?? "");
}

/* A new slide after this one with these blocks; header and notes are the same. */
function rest(section, blocks) {
  const next = section.cloneNode(false);
  next.className = "sheet";
  for (const part of section.children) {
    if (part.className !== "page") next.append(part.cloneNode(true));
  }
  const paper = page(section).cloneNode(false);
  paper.append(...blocks);
  next.append(paper);
  section.after(next);
  return next;
}

/* Where to cut: the number of blocks that stay. Those from there on are hidden one after the other. */
function cut(section) {
  const blocks = [...page(section).children];
  const between = (i) => blocks[i - 1].dataset.cell !== blocks[i].dataset.cell || heads(blocks[i]);
  let inside = 0;
  for (let i = blocks.length - 1; i > 0; i--) {
    blocks[i].hidden = true;
    if (heads(blocks[i - 1]) || !fits(section, COMFORT)) continue;
    if (between(i)) {
      /* a page with little on it, for the sake of the cell's unity: only where the cell has a page's use */
      const filled = page(section).getBoundingClientRect().height / BOTTOM;
      if (!inside || filled > 0.3) inside = i;
      break;
    }
    inside ||= i;
  }
  blocks.forEach((block) => { block.hidden = false; });
  return inside;
}

/* A first block that is one long table becomes two, with the same head. */
function halved(section) {
  const block = page(section).firstElementChild;
  const table = block.firstElementChild;
  if (table?.tagName !== "TABLE" || table.tBodies[0].rows.length < 4) return false;
  const next = block.cloneNode(true);
  const half = Math.ceil(table.tBodies[0].rows.length / 2);
  [...table.tBodies[0].rows].slice(half).forEach((row) => row.remove());
  [...next.querySelector("tbody").rows].slice(0, half).forEach((row) => row.remove());
  block.after(next);
  return true;
}

/* How high these blocks stand together on a page, as a share of it. */
function share(blocks) {
  const boxes = blocks.map((block) => block.getBoundingClientRect());
  return (Math.max(...boxes.map((b) => b.bottom)) - Math.min(...boxes.map((b) => b.top))) / BOTTOM;
}

function spread(section) {
  if (fits(section, COMFORT)) return;
  let stay = cut(section);
  if (!stay && halved(section)) return spread(section);
  const blocks = [...page(section).children];
  if (stay && share(blocks.slice(stay)) < LITTLE && fits(section, TIGHT)) return;
  stay ||= 1; // too much for a page by itself
  if (stay < blocks.length) {
    const after = rest(section, blocks.slice(stay));
    fits(section, HARDSHIP);
    spread(after);
  } else {
    fits(section, HARDSHIP);
  }
}

async function start() {
  await MathJax.startup.promise;
  await MathJax.typesetPromise();
  await document.fonts.ready;
  await Promise.all([...document.images].map((image) => image.decode().catch(() => null)));
  document.querySelectorAll(".page img").forEach(floor);
  document.querySelectorAll("section:has(> .page)").forEach(spread);
  document.body.classList.remove("pressing");
  await Reveal.initialize({
    width: 1280, height: 720, margin: 0.02, center: false, hash: true, transition: "none",
    backgroundTransition: "none", slideNumber: "c/t", controls: true, controlsTutorial: false,
    showNotes: false, pdfSeparateFragments: false, plugins: [RevealNotes],
  });
  document.body.dataset.ready = "yes";
}

document.fonts.load("20px Sans");
document.fonts.load("italic 20px Sans");
document.fonts.load("bold 20px Sans");
document.fonts.load("20px Mono");
start();
