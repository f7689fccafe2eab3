// What moves in the widgets of widgets.py. All that is shown is in the page already; nothing is fetched.
(() => {
  const all = (root, what) => [...root.querySelectorAll(what)];

  // One panel is visible; what another one plays goes on in this one, from the beginning.
  function show(widget, key) {
    let played = false;
    for (const panel of all(widget, ".taste-panel")) {
      const audio = panel.querySelector("audio");
      if (!audio.paused) { played = true; audio.pause(); audio.currentTime = 0; }
      panel.hidden = panel.dataset.key !== key;
    }
    const panel = widget.querySelector(`.taste-panel[data-key="${key}"]`);
    if (played) panel.querySelector("audio").play();
    return panel;
  }

  const kinds = {
    slider(widget) {
      const input = widget.querySelector("input");
      const update = () => input.setAttribute("aria-valuetext", show(widget, input.value).dataset.label);
      input.addEventListener("input", update);
      update();
    },

    switches(widget) {
      const buttons = all(widget, ".taste-control button");
      const update = () => show(widget, buttons.map((b) => (b.ariaPressed === "true" ? "1" : "0")).join(""));
      for (const button of buttons) {
        button.addEventListener("click", () => {
          button.ariaPressed = String(button.ariaPressed !== "true");
          update();
        });
      }
      update();
    },

    choices(widget) {
      const update = () => show(widget, all(widget, "input:checked").map((input) => input.value).join("-"));
      widget.querySelector("form").addEventListener("change", update);
      update();
    },

    attention(widget) {
      const data = JSON.parse(widget.querySelector("script").textContent);
      const maps = Uint8Array.from(atob(data.maps), (c) => c.charCodeAt(0));
      const [, nHeads, nWords, nFrames] = data.shape;
      const [layer, head] = all(widget, "select");
      const words = all(widget, ".taste-control button");
      const canvas = widget.querySelector("canvas"), hear = widget.querySelector(".taste-hear");
      let word = 0, context = null, source = null;
      const row = (w) => {
        const start = ((+layer.value * nHeads + +head.value) * nWords + w) * nFrames;
        return maps.subarray(start, start + nFrames);
      };
      function draw() {
        const paint = canvas.getContext("2d"), high = canvas.height / nWords, wide = canvas.width / nFrames;
        paint.clearRect(0, 0, canvas.width, canvas.height);
        for (let w = 0; w < nWords; w++) {
          const values = row(w);
          for (let t = 0; t < nFrames; t++) {
            paint.fillStyle = `rgba(122, 79, 176, ${values[t] / 255})`;
            paint.fillRect(t * wide, w * high, wide, high);
          }
          const [a, b] = data.spans[w].map((second) => (second / data.seconds) * canvas.width);
          paint.strokeStyle = w === word ? "#a93226" : "#1f6fb4";
          paint.lineWidth = w === word ? 3 : 1;
          paint.strokeRect(a, w * high + 1, b - a, high - 2);
        }
        words.forEach((button, w) => (button.ariaPressed = String(w === word)));
        const score = data.scores[layer.value][head.value][word];
        const text = `Layer ${layer.value}, head ${head.value}: “${words[word].textContent}” has ${score.toFixed(2)} ` +
          "of its attention inside the word.";
        widget.querySelector("output").textContent = text;
        canvas.setAttribute("aria-label", `Attention map, one row per word, time to the right. ${text}`);
      }
      async function play() {
        context ??= new AudioContext();
        const coded = widget.querySelector("audio").src.split(",")[1];
        const bytes = Uint8Array.from(atob(coded), (c) => c.charCodeAt(0));
        const buffer = await context.decodeAudioData(bytes.buffer);
        source?.stop();
        source = new AudioBufferSourceNode(context, { buffer });
        const gain = new GainNode(context);
        const curve = Float32Array.from(row(word), (value) => Math.min((2 * value) / 255, 1));
        gain.gain.setValueCurveAtTime(curve, context.currentTime, data.seconds);
        source.connect(gain).connect(context.destination);
        source.start();
        widget.dataset.heard = word;
      }
      layer.addEventListener("change", draw);
      head.addEventListener("change", draw);
      words.forEach((button, w) => button.addEventListener("click", () => { word = w; draw(); }));
      hear.addEventListener("click", play);
      canvas.hidden = hear.hidden = false;
      draw();
    },

    bitrate(widget) {
      const inputs = Object.fromEntries(all(widget, "input").map((input) => [input.name, input]));
      const vocabulary = +widget.querySelector("[data-vocabulary]").dataset.vocabulary;
      function update() {
        for (const input of Object.values(inputs)) input.closest("p").querySelector("output").value = input.value;
        const perSecond = +inputs.words.value;
        const codes = perSecond * inputs.codes.value * inputs.bits.value;
        const text = perSecond * inputs.tokens.value * Math.log2(vocabulary);
        widget.querySelector(".taste-result").value =
          `${codes.toFixed(0)} bit/s of codes and ${text.toFixed(0)} bit/s of text: ${(codes + text).toFixed(0)} bit/s`;
      }
      for (const input of Object.values(inputs)) input.addEventListener("input", update);
      update();
    },
  };

  for (const widget of all(document, ".taste-widget:not([data-ready])")) {
    widget.dataset.ready = "";
    for (const control of all(widget, ".taste-control")) control.hidden = false;
    kinds[widget.dataset.widget](widget);
  }
})();
