// A definition, written as docstrings, as paragraphs, lists, code, formulas and sources; nothing is read as markup.
{
  const CITATION = / ?\(([^()]*\b(?:19|20)\d\d\b[^()]*)\)/g;
  const SYMBOLS = /[=Σ√‖∂∫⟨⟩½−·≤≥÷|]/,
    WORDS = /^(?:[a-zA-Zα-ω]′?|log|exp|KL|HSIC|CKA|p\/q)$/;

  const made = (tag, className, ...children) => {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  };

  // Whether a word belongs to a formula, given whether the word before it does.
  function isFormula(word, follows) {
    const bare = word.replace(/^[(,]+|[),.;:]+$/g, "");
    if (["a", "A", "I"].includes(bare) && !follows) return false;
    return SYMBOLS.test(bare) || /[₀-₉₁∞]|[A-Z]_[A-Z]/.test(bare) || (follows && WORDS.test(bare));
  }

  // Text with its formulas in a style of their own: runs of words that hold a mathematical sign.
  function formulas(text) {
    const parts = [];
    let follows = false;
    for (const word of text.split(/(?<= )/)) {
      const formula = isFormula(word.trim(), follows);
      if (formula && follows) parts.at(-1).append(word);
      else parts.push(formula ? made("i", "formula", word) : word);
      follows = formula && !/[.;:]\s*$/.test(word);
    }
    return parts;
  }

  // A sentence: `code` between backticks, formulas, and citations in short form; `sources` collects the full ones.
  function inline(text, sources) {
    const short = text.replace(CITATION, (_, cited) => {
      for (const source of cited.split("; ")) sources.add(source);
      return "";
    });
    return short.split("`").flatMap((part, index) => (index % 2 ? [made("code", "", part)] : formulas(part)));
  }

  function block(paragraph, sources) {
    const lines = paragraph.split("\n");
    if (lines.every((line) => line.startsWith("    "))) {
      return made("pre", "", lines.map((line) => line.slice(4)).join("\n"));
    }
    const joined = (part) => part.replace(/\s*\n\s*/g, " ");
    if (!/^(?:- |\d+\. )/.test(lines[0])) return made("p", "", ...inline(joined(paragraph), sources));
    const items = paragraph.split(/\n(?=- |\d+\. )/).map((item) => joined(item.replace(/^(?:- |\d+\. )/, "")));
    const list = lines[0].startsWith("- ") ? "ul" : "ol";
    return made(list, "", ...items.map((item) => made("li", "", ...inline(item, sources))));
  }

  // text: for each function its name, and after an empty line its docstring; two empty lines between functions.
  window.workbench.typeset = (card, text) => {
    const parts = text.split("\n\n\n").map((told) => {
      const [name, ...paragraphs] = told.split("\n\n"),
        sources = new Set(),
        blocks = paragraphs.map((paragraph) => block(paragraph, sources));
      const short = name.slice(name.lastIndexOf(".") + 1);
      const heading = made("h3", "", short, ...(short === name ? [] : [made("small", "", name)]));
      const cited = [...sources].map((source) => made("p", "source", source));
      return made("section", "", heading, ...blocks, ...cited);
    });
    card.replaceChildren(...parts);
  };
}
