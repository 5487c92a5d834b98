// One picture in the library's grid: its element, what stands on it, and its buttons.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});

    // An empty cell. Its buttons are pressed through the grid's own listener.
    function made() {
        const small = (name, text, title) => {
            const node = lib.make("button", {type: "button", textContent: text, title, tabIndex: -1});
            node.dataset.act = name;
            return node;
        };
        const tick = lib.named("span", "tick", {textContent: "✓"});
        tick.setAttribute("aria-hidden", "true");
        const stars = [1, 2, 3, 4, 5].map((number) => small(number, "☆", `${number} star${number === 1 ? "" : "s"}`));
        const caption = lib.make(
            "figcaption",
            {},
            lib.make("div", {}, lib.named("span", "score"), lib.named("span", "percent")),
            lib.make(
                "div",
                {},
                small("keep", "✓", "keep"),
                small("reject", "✗", "reject"),
                lib.named("span", "stars", {}, ...stars),
            ),
        );
        const cell = lib.make("figure", {}, lib.make("img", {alt: "", draggable: false}), tick, caption);
        cell.setAttribute("role", "option");
        return cell;
    }

    // A cell's text and buttons, once the picture is described; until then its caption is not seen.
    function fill(cell, picture) {
        if (!picture) {
            cell.removeAttribute("aria-label");
            cell.removeAttribute("title");
            cell.dataset.mark = "";
            return;
        }
        const number = picture.score === null ? "" : picture.score.toFixed(3);
        cell.firstChild.alt = picture.name;
        cell.title = [picture.prompt, picture.checkpoint, picture.percentile].filter(Boolean).join("\n");
        cell.dataset.mark = picture.mark || "";
        const told = [picture.name, number, picture.mark, picture.stars ? `${picture.stars} stars` : ""];
        cell.setAttribute("aria-label", told.filter(Boolean).join(", "));
        cell.querySelector(".imagereward-library-score").textContent = number;
        cell.querySelector(".imagereward-library-percent").textContent =
            picture.percent === null ? "" : `${picture.percent} %`;
        for (const button of cell.querySelectorAll("button")) {
            const act = button.dataset.act;
            if (act === "keep" || act === "reject") {
                button.setAttribute("aria-pressed", picture.mark === act);
            } else {
                button.textContent = Number(act) <= (picture.stars || 0) ? "★" : "☆";
            }
        }
    }

    // One of a cell's buttons: pressed again, it takes back what it gave.
    function pressed(act, picture) {
        const stars = Number(act);
        const change =
            act === "keep" || act === "reject"
                ? {mark: picture.mark === act ? "" : act}
                : {stars: picture.stars === stars ? 0 : stars};
        lib.guarded(() => lib.actions.judge([picture.id], change))();
    }

    lib.cells = {made, fill, pressed};
})();
