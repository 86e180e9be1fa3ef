// A token in the training text, in a section of the inspector: n-grams with the token and their counts, the tokens that
// follow in the text and by the model, documents with the match in bold, and the steps whose rows hold it.
//   const { renew, open } = wb.seen(section, ask)    ask(): the body of a request to data/corpus/seen, or null
// It asks the server only while its <details> is open. Texts are set as text nodes, so none is read as markup.
{
  const SPACE = "http://www.w3.org/2000/svg";
  const WIDE = 260, // of the time line, in units of its picture
    TALL = 26,
    MOST_SHOWN = 20; // characters of an n-gram, of which the last are shown

  function made(tag, className = "", ...content) {
    const element = document.createElement(tag);
    element.className = className;
    element.append(...content);
    return element;
  }

  const times = (count) => `${count.toLocaleString("en")} ×`;

  function word(text) {
    const element = made("span", "word");
    window.workbench.write(element, text);
    return element;
  }

  function ngram([start, end, count], texts, isChosen, press) {
    const tokens = end - start,
      row = made("button", "row ngram");
    row.type = "button";
    const text = texts.slice(start, end).join("");
    row.append(
      word(text.length > MOST_SHOWN ? `…${text.slice(1 - MOST_SHOWN)}` : text),
      made("span", "number faint", `${tokens}`),
    );
    row.append(made("span", "number", times(count)));
    row.setAttribute("aria-pressed", String(isChosen));
    row.setAttribute("aria-label", `${tokens} tokens, ${count} times: ${text}`);
    row.title = `${text}: ${tokens} tokens, from token ${start}: ${count.toLocaleString("en")} times in the training text`;
    row.classList.toggle("chosen", isChosen);
    row.addEventListener("click", () => press([start, end]));
    return row;
  }

  function bar(probability) {
    const element = made("span", "bar");
    element.style.width = `${100 * probability}%`;
    element.style.visibility = probability ? "visible" : "hidden";
    return element;
  }

  function share(probability) {
    const element = made("span", "percent number", window.workbench.percent(probability));
    element.title = probability;
    return element;
  }

  function following([text, id, inText, byModel]) {
    const row = made("div", "row", word(text), bar(inText), share(inText), bar(byModel), share(byModel));
    row.title = `id ${id}: ${inText} in the text, ${byModel} by the model`;
    return row;
  }

  function follows({ suffix, total, rows }) {
    const names = made("div", "row names", ...["", "text", "", "model", ""].map((name) => made("span", "", name)));
    const tokens = suffix === 1 ? "this token" : `these ${suffix} tokens`;
    const about = total ? `${tokens}, ${times(total)}` : suffix ? `nothing follows ${tokens}` : "the text: no match";
    return [
      made("h4", "", "What follows", made("small", "", about)),
      made("div", "follows", names, ...rows.map(following)),
    ];
  }

  function excerpt({ before, match, after, source, licence, number, begins, steps, times: read }) {
    const text = made("p", "excerpt", begins ? "" : "… ", before, made("b", "", match), after);
    const when = read ? `read at step${read > 1 ? "s" : ""} ${list(steps, read)}` : "in no row";
    return made(
      "div",
      "document",
      text,
      made("small", "", `${source} · licence: ${licence} · document ${number.toLocaleString("en")} · ${when}`),
    );
  }

  const list = (steps, all) =>
    steps.map((step) => step.toLocaleString("en")).join(", ") + (all > steps.length ? `, … (${all} steps)` : "");

  function drawn(name, attributes) {
    const element = document.createElementNS(SPACE, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  }

  // The rows that hold the n-gram, along the run: a darker tick stands for more rows; a line marks the checkpoint.
  function timeline({ bins, stages, at, end }) {
    const most = Math.max(...bins, 1),
      wide = WIDE / bins.length;
    const line = drawn("svg", {
      viewBox: `0 0 ${WIDE} ${TALL}`,
      preserveAspectRatio: "none",
      class: "timeline",
      "aria-hidden": "true",
    });
    line.append(drawn("rect", { x: 0, y: TALL - 6, width: WIDE, height: 1, class: "axis" }));
    for (const [index, count] of bins.entries()) {
      if (!count) continue;
      const tall = 5 + (13 * count) / most;
      line.append(
        drawn("rect", {
          x: index * wide,
          y: TALL - 6 - tall,
          width: Math.max(1.2, wide - 0.4),
          height: tall,
          class: "tick",
        }),
      );
    }
    for (const step of stages.slice(0, -1))
      line.append(drawn("rect", { x: (WIDE * step) / end, y: TALL - 6, width: 1, height: 6, class: "axis" }));
    line.append(
      drawn("rect", { x: Math.min(WIDE - 1.5, (WIDE * at) / end), y: 0, width: 1.5, height: TALL, class: "now" }),
    );
    return line;
  }

  function read(rows) {
    const { count, steps, before, at, end, named, last, stages } = rows,
      number = (value) => value.toLocaleString("en");
    if (!count) return [made("p", "", "No row of this run held it.")];
    const text = `${number(count)} row${count > 1 ? "s" : ""} held it, at ${number(steps)} step${steps > 1 ? "s" : ""} from ${number(named[0])} to ${number(last)}. This checkpoint (step ${number(at)}) has read ${before === count ? "all of them" : number(before)}.`;
    const where = made("p", "", text);
    where.title = `Steps: ${list(named, steps)}`;
    const ends = made(
      "div",
      "ends",
      made("span", "", "0"),
      made("span", "", `stages end at ${stages.slice(0, -1).map(number).join(" and ")}`),
    );
    ends.append(made("span", "", number(end)));
    return [timeline(rows), ends, where];
  }

  window.workbench.seen = (section, ask) => {
    const wb = window.workbench,
      details = section.querySelector("details"),
      place = section.querySelector(".found");
    let turn = 0,
      shown = null,
      offered = null, // the request whose documents are shown
      offers = null;

    // The documents as Python and as data, once there are some.
    function offer(request) {
      offered = request;
      offers ??= wb.offers(section, {
        offer: async () => (await wb.post("data/corpus/seen/offer", offered)).json(),
        without: ["page", "link"],
      });
      offers.renew();
    }

    function show(found, texts, choose) {
      if (found.absent) return place.replaceChildren(made("p", "absent", found.absent));
      const { ngrams, chosen, documents, places, rows } = found;
      const parts = [];
      if (ngrams.length) {
        const all = ngrams.map((one) => ngram(one, texts, one[0] === chosen[0] && one[1] === chosen[1], choose));
        const names = made("div", "row ngram names", made("span", "", "n-gram"), made("span", "number", "tokens"));
        names.append(made("span", "number", "count"));
        parts.push(made("div", "ngrams", names, ...all));
      } else parts.push(made("p", "", "This token is not in the training text."));
      parts.push(...follows(found.follows));
      if (rows) parts.push(made("h4", "", "When it was read", made("small", "", "rows along the run")), ...read(rows));
      if (documents.length)
        parts.push(
          made(
            "h4",
            "",
            "Documents",
            made("small", "", `${documents.length} of ${places.toLocaleString("en")} places`),
          ),
          ...documents.map(excerpt),
        );
      place.replaceChildren(...parts);
    }

    async function draw(ngramChosen = null) {
      const asked = ask();
      if (!details.open || !asked) return;
      const now = ++turn,
        { texts, ...body } = asked,
        same = JSON.stringify([body, ngramChosen]);
      if (shown === same) return;
      section.classList.add("busy");
      try {
        const focus = place.contains(document.activeElement);
        const found = await (await wb.post("data/corpus/seen", { ...body, ngram: ngramChosen })).json();
        if (now !== turn) return;
        show(found, texts, draw);
        shown = found.absent ? null : same;
        section.querySelector(".offers").hidden = Boolean(found.absent);
        if (!found.absent) offer({ ...body, ngram: found.chosen });
        if (focus) place.querySelector(".ngram.chosen")?.focus();
      } catch (error) {
        if (now === turn) place.replaceChildren(made("p", "absent", error.message));
      }
      if (now === turn) section.classList.remove("busy");
    }
    details.addEventListener("toggle", () => draw());
    const open = (chosen) => {
      details.open = true;
      draw(chosen);
    };
    return { renew: () => draw(), open };
  };

  // The measure that shades the strips of tokens; "" is surprisal. It applies to all strips, and is in the address.
  const SHADES = {
    "": ["surprisal", "", ""],
    verbatim: ["verbatim in training", "Pieces that occur verbatim in the training text", "longest piece"],
    text: ["∞-gram", "What the training text alone expects: after the longest match of the tokens before", "∞-gram"],
    difference: ["model − ∞-gram", "Orange: the model knows more than the longest match; blue: less", "model − ∞-gram"],
  };

  function described(found, index) {
    const { percent } = window.workbench;
    if (found.spans) {
      const span = spanAt(found.spans, index);
      return span ? `in a piece of ${span[1] - span[0]} tokens, ${times(span[2])} in the training text` : "in no piece";
    }
    if (found.suffix[index] === null) return "nothing comes before it";
    const text = found.text[index] === null ? "nothing follows" : percent(found.text[index]);
    return `∞-gram ${text} after ${found.suffix[index]} tokens  ·  model ${percent(found.model[index])}`;
  }

  const spanAt = (spans, index) =>
    spans
      .filter(([start, end]) => start <= index && index < end)
      .reduce((best, span) => (best && best[1] - best[0] >= span[1] - span[0] ? best : span), null);

  const asked = window.workbench.remembered("shade");
  let shade = asked in SHADES ? asked : "";
  window.workbench.strips = {
    now: () => shade,
    options: () => Object.entries(SHADES).map(([value, [name]]) => new Option(name, value)),
    choose(value) {
      shade = value;
      window.workbench.remember(["shade"], [value || null]);
      window.workbench.say("shade", value);
    },
    // The numbers of a strip; without an index, only a `title` that says how to make one.
    async ask(body) {
      const found = await (await window.workbench.post("data/corpus/shade", body)).json();
      if (found.absent) return { ...found, title: found.absent };
      const values = found.spans ? found.values.map((value) => value || null) : found.values;
      const [, title, measure] = SHADES[body.shade];
      const span = found.spans ? { spanAt: (index) => spanAt(found.spans, index) } : {};
      return { ...found, values, title, measure, says: (index) => described(found, index), ...span };
    },
    offer: (body) => window.workbench.post("data/corpus/shade/offer", body),
  };
}
