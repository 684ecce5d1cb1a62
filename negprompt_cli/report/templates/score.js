// Moves the threshold, and updates counts, badges and the CSV file. Counts come from the histogram of all images, which is
// exact at the edges of its bins, and the slider stops only at those edges.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const slider = find("slider"), classes = find("class");
  const cards = [...document.querySelectorAll("li[data-row]")];
  const columns = ["path", "prediction", "prediction_name", "probability", "score", "p_value", "is_ood", "nearest_negative",
    "negative_similarity"];
  const VERDICT = 7, SCORE = 3, CLASS = 1;
  const given = ["n-threshold", "n-held"].map((id) => find(id)?.textContent);
  let stop = null; // null: the original verdicts, which thresholds by class or a false discovery rate may have decided

  const x = (edge) => 1000 * Math.min(1, Math.max(0, (edge - data.axis[0]) / (data.axis[1] - data.axis[0])));
  const chosen = () => (classes.value === "" ? null : Number(classes.value));
  const count = (value) => value.toLocaleString("en-US");
  const percent = (share) => (100 * share).toFixed(1) + " %";
  const text = (value) => String(Number(value.toPrecision(4)));
  const isOod = (row) => (stop === null ? row[VERDICT] : row[SCORE] < data.edges[stop]);
  const among = (row) => chosen() === null || row[CLASS] === chosen();

  function bins() {
    const total = new Array(data.edges.length - 1).fill(0);
    for (const [index, pairs] of Object.entries(data.counts)) {
      if (chosen() !== null && Number(index) !== chosen()) continue;
      for (let i = 0; i < pairs.length; i += 2) total[pairs[i]] += pairs[i + 1];
    }
    return total;
  }

  // The same as `histogram.outline`: each bar has `step` bins.
  function outline(counts) {
    const bars = [];
    for (let i = 0; i < counts.length; i += data.step) bars.push(counts.slice(i, i + data.step).reduce((a, b) => a + b, 0));
    const most = Math.max(1, ...bars);
    let d = "M0 100";
    bars.forEach((count, i) => {
      const y = (100 - (100 * count) / most).toFixed(2);
      d += `L${x(data.edges[i * data.step]).toFixed(2)} ${y}L${x(data.edges[(i + 1) * data.step]).toFixed(2)} ${y}`;
    });
    return d + "L1000 100Z";
  }

  function judged() {
    const all = Object.entries(data.judged);
    return all.reduce((sum, [index, count]) => sum + (chosen() === null || Number(index) === chosen() ? count : 0), 0);
  }

  function update() {
    const counts = bins(), images = counts.reduce((a, b) => a + b, 0);
    const below = stop === null ? judged() : counts.slice(0, stop).reduce((a, b) => a + b, 0);
    const decided = stop !== null || data.decided;
    find("n-images").textContent = count(images);
    find("n-ood").textContent = decided ? count(below) : "-";
    find("n-share").textContent = decided && images ? percent((images - below) / images) : "-";
    find("n-threshold").textContent = stop === null ? given[0] : text(data.edges[stop]);
    if (data.held) find("n-held").textContent = stop === null ? given[1] : percent(data.held[stop]);
    document.querySelector(".histogram").classList.toggle("undecided", !decided);
    for (const id of ["bars-below", "bars-above"]) find(id).setAttribute("d", outline(counts));
    const cut = x(data.edges[stop === null ? data.start : stop]);
    find("cut").setAttribute("x1", cut);
    find("cut").setAttribute("x2", cut);
    find("cut").setAttribute("visibility", decided ? "visible" : "hidden");
    document.querySelector("#clip-below rect").setAttribute("width", cut + 50);
    document.querySelector("#clip-above rect").setAttribute("x", cut);
    slider.setAttribute("aria-valuetext", find("n-threshold").textContent);
    for (const card of cards) {
      const row = data.rows[Number(card.dataset.row)], badge = card.querySelector(".badge");
      card.hidden = !among(row);
      badge.textContent = isOod(row) === null ? "" : isOod(row) ? "OOD" : "ID";
      badge.classList.toggle("ood", isOod(row) === true);
    }
    const rows = data.rows.filter(among).length;
    find("csv").textContent = `Download CSV (${count(rows)}${rows < images ? " of " + count(images) : ""} images)`;
    find("reset").disabled = stop === null && chosen() === null;
  }

  function csv() {
    const field = (value) => {
      const plain = value === null ? "" : String(value);
      return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
    };
    const lines = data.rows.filter(among).map((row) => {
      const [path, index, probability, score, p, negative, similarity] = row;
      return [path, ...data.classes[index], probability, score, p, isOod(row), negative, similarity].map(field).join(",");
    });
    return [columns.join(","), ...lines].join("\n") + "\n";
  }

  slider.addEventListener("input", () => { stop = Number(slider.value); update(); });
  classes.addEventListener("change", update);
  find("reset").addEventListener("click", () => { stop = null; classes.value = ""; slider.value = data.start; update(); });
  find("csv").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    link.download = data.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  slider.hidden = find("controls").hidden = false;
  // A browser keeps the values of inputs when it reloads a page.
  slider.value = data.start;
  classes.value = "";
  update();
})();
