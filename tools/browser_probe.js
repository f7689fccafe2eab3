// What a page can tell about itself, once MathJax and the players have had their chance: a list of complaints.
(async () => {
  const found = [];
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  for (const math of document.querySelectorAll("article .math")) {
    const set = math.querySelector("mjx-container") && !math.querySelector("mjx-merror");
    if (!set) found.push("formula not set: " + math.textContent.slice(0, 60));
  }
  const players = [...document.querySelectorAll("audio")];
  await Promise.all(players.map((player) => new Promise((done) => {
    if (player.readyState > 0 || player.error) return done();
    player.onloadedmetadata = player.onerror = done;
    setTimeout(done, 20000);
    player.load();
  })));
  for (const player of players) {
    if (!(player.duration > 0)) found.push("cannot play: " + player.getAttribute("aria-label"));
  }
  for (const image of document.querySelectorAll("article img")) {
    if (!image.complete || image.naturalWidth === 0) found.push("image not shown: " + image.src.slice(0, 80));
  }
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  if (wide > 0) found.push(`page is ${wide} pixels wider than the window`);

  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const levels = [...document.querySelectorAll("article :is(h1, h2, h3, h4)")].filter(visible).map((h) => +h.tagName[1]);
  if (levels.filter((level) => level === 1).length !== 1 || levels[0] !== 1) found.push("not one title: " + levels);
  if (levels.some((level, i) => i && level > levels[i - 1] + 1)) found.push("headings skip a level: " + levels);
  for (const link of document.querySelectorAll('article a[href^="#"]')) {
    const name = decodeURIComponent(link.hash.slice(1));
    if (name && !document.getElementById(name)) found.push("link to nowhere: #" + name);
  }
  const controls = 'article :is(button, input, select, audio, a[href])';
  for (const control of document.querySelectorAll(controls)) {
    const name = control.getAttribute("aria-label") || control.textContent.trim() || control.title ||
      control.closest("label")?.textContent.trim() || control.querySelector("img")?.alt;
    if (visible(control) && !name) found.push("control without a name: " + control.outerHTML.slice(0, 80));
  }

  // Contrast of text, WCAG 2 level AA: 4.5, or 3 where letters are large.
  const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const parsed = new Map(), behind = new Map(), bad = new Map();
  function rgba(colour) {
    if (!parsed.has(colour)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      parsed.set(colour, [r, g, b, a / 255]);
    }
    return parsed.get(colour);
  }
  const over = (top, low) => top.slice(0, 3).map((c, i) => c * top[3] + low[i] * (1 - top[3]));
  function background(element) {  // null: a picture
    if (!element) return document.documentElement.dataset.theme === "dark" ? [18, 18, 18] : [255, 255, 255];
    if (!behind.has(element)) {
      const style = getComputedStyle(element);
      const low = background(element.parentElement);
      const plain = style.backgroundImage === "none" && low;
      behind.set(element, plain ? over(rgba(style.backgroundColor), low) : null);
    }
    return behind.get(element);
  }
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element || !visible(element)) continue;
    if (element.closest('script, style, noscript, svg, option, mjx-container, [aria-hidden="true"], :disabled')) continue;
    const style = getComputedStyle(element), low = background(element);
    const box = element.getBoundingClientRect();
    if (!low || box.width < 2 || box.height < 2) continue;
    const [a, b] = [light(over(rgba(style.color), low)), light(low)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) {
      const where = `${element.tagName.toLowerCase()}.${element.className} ${style.color} on rgb(${low.map(Math.round)})`;
      if (!bad.has(where)) bad.set(where, `contrast ${ratio.toFixed(2)}: “${texts.currentNode.data.trim().slice(0, 30)}” ${where}`);
    }
  }
  found.push(...bad.values());
  return found;
})()
