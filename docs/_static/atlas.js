// The codebook atlas: data.js has what is known of each code, the sheets have the pictures.
(() => {
  const { counts, order, near, examples, pictures, styles, columns, pictureColumns, side } =
    window.ATLAS;
  const total = window.ATLAS.tokens_counted;
  const codes = document.getElementById("atlas-codes");
  const panel = document.getElementById("atlas-panel");
  const number = document.getElementById("atlas-number");
  const found = document.getElementById("atlas-found");
  const rank = [];
  const byUse = counts.map((_, code) => code).sort((a, b) => counts[b] - counts[a] || a - b);
  byUse.forEach((code, place) => (rank[code] = place + 1));
  const orders = { likeness: order, use: byUse, number: counts.map((_, code) => code) };
  let kept = order[0];
  let shown = -1;

  const make = (tag, attributes = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...inside);
    return element;
  };

  // A cell of a sheet; its size comes from the style sheet.
  const sprite = (sheet, index, inRow, name, text) => {
    const element = make("span", { className: `sprite ${name}` });
    element.style.setProperty("--x", index % inRow);
    element.style.setProperty("--y", Math.floor(index / inRow));
    element.classList.add(sheet);
    element.setAttribute("role", "img");
    element.setAttribute("aria-label", text);
    return element;
  };

  const cells = counts.map((count, code) => {
    const cell = sprite("tiles", code, columns, "code", `code ${code}`);
    cell.id = `cell-${code}`;
    cell.dataset.code = code;
    cell.setAttribute("role", "option");
    cell.title = "";
    if (count === 0) cell.classList.add("never");
    return cell;
  });

  const sortBy = (name) => codes.replaceChildren(...orders[name].map((code) => cells[code]));

  const link = (code) => {
    const element = make("a", { href: `#code-${code}`, title: `code ${code}` });
    element.append(sprite("tiles", code, columns, "near", `code ${code}`), make("small", {}, `${code}`));
    return element;
  };

  const example = ([picture, place]) => {
    const pair = make("div", { className: "pair" });
    for (const sheet of ["drawings", "redrawn"]) {
      const what = sheet === "drawings" ? "drawing" : "drawn by the model";
      const box = sprite(sheet, picture, pictureColumns, "picture", `${pictures[picture]}, ${what}`);
      const mark = make("i");
      mark.style.setProperty("--p", place % side);
      mark.style.setProperty("--q", Math.floor(place / side));
      box.append(mark);
      pair.append(box);
    }
    return make("figure", {}, pair, make("figcaption", {}, pictures[picture]));
  };

  const big = (sheet, code, text) =>
    make("figure", {}, sprite(sheet, code, columns, "big", `code ${code} ${text}`), make("figcaption", {}, text));

  const show = (code) => {
    if (code === shown) return;
    if (shown >= 0) cells[shown].classList.remove("shown");
    shown = code;
    cells[code].classList.add("shown");
    codes.setAttribute("aria-activedescendant", `cell-${code}`);
    const share = ((100 * counts[code]) / total).toFixed(2);
    const used = counts[code]
      ? `${counts[code].toLocaleString("en")} times, ${share} % of all tokens, number ${rank[code]} by use`
      : "never occurs";
    const where = styles[code].map(([style, percent]) => `${style} ${percent} %`).join(", ");
    const list = examples[code].map(example);
    panel.replaceChildren(
      make("h2", {}, `Code ${code}`),
      make("p", {}, used, make("br"), where ? `most in ${where}` : ""),
      make(
        "div",
        { className: "both" },
        big("tiles", code, "alone"),
        big("in_use", code, "in pictures, mean"),
        big("places", code, "where in them"),
      ),
      make("h3", {}, "Near in the codebook"),
      make("div", { className: "neighbours" }, ...near[code].map(link)),
      make("h3", {}, "In pictures"),
      make("div", { className: "examples" }, ...(list.length ? list : ["in none"])),
    );
  };

  const keep = (code, scroll = false) => {
    cells[kept].setAttribute("aria-selected", "false");
    cells[kept].classList.remove("kept");
    kept = code;
    cells[code].setAttribute("aria-selected", "true");
    cells[code].classList.add("kept");
    found.textContent = "";
    if (scroll) cells[code].scrollIntoView({ block: "nearest" });
    history.replaceState(null, "", `#code-${code}`);
    show(code);
  };

  const ofEvent = (event) => event.target.closest("[data-code]")?.dataset.code;
  codes.addEventListener("pointerover", (event) => {
    const code = ofEvent(event);
    if (code !== undefined && event.pointerType !== "touch") show(Number(code));
  });
  codes.addEventListener("pointerleave", () => show(kept));
  codes.addEventListener("click", (event) => {
    const code = ofEvent(event);
    if (code !== undefined) keep(Number(code));
  });
  codes.addEventListener("keydown", (event) => {
    const inRow = getComputedStyle(codes).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -inRow, ArrowDown: inRow }[event.key];
    const next = step && codes.children[[...codes.children].indexOf(cells[kept]) + step];
    if (!step) return;
    event.preventDefault();
    if (next) keep(Number(next.dataset.code), true);
  });
  document.querySelector(".atlas-controls").addEventListener("submit", (event) => event.preventDefault());
  document.querySelectorAll("[name=atlas-order]").forEach((button) =>
    button.addEventListener("change", () => sortBy(button.value)),
  );
  number.addEventListener("input", () => {
    const code = Number(number.value);
    if (number.value === "") found.textContent = "";
    else if (Number.isInteger(code) && code in cells) keep(code, true);
    else found.textContent = `There is no code ${number.value}: they are 0 to ${cells.length - 1}.`;
  });
  const open = () => {
    const code = Number(/^#code-(\d+)$/.exec(location.hash)?.[1] ?? NaN);
    if (!(code in cells)) return;
    keep(code);
    cells[code].scrollIntoView({ block: "nearest" });
  };
  window.addEventListener("hashchange", open);

  sortBy(document.querySelector("[name=atlas-order]:checked").value);
  show(kept);
  cells[kept].classList.add("kept");
  open();
})();
