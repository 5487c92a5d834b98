// The library's filters: what the grid shows and in which order, as a question in the library's language.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});

    // --- the question ---------------------------------------------------------------------------------------------

    const quoted = (text) => `"${text.replace(/([\\"])/g, "\\$1")}"`;
    const value = (name) => lib.part(name).value.trim();

    // The filters' fields as a question in the library's language.
    function question() {
        const parts = [];
        const add = (field, operator, text) => text && parts.push(`${field}${operator}${quoted(text)}`);
        add("prompt", "~", value("words"));
        add("checkpoint", "=", value("checkpoint"));
        add("lora", "=", value("lora"));
        add("date", ">=", value("since"));
        add("date", "<=", value("until"));
        if (value("mark")) {
            parts.push(value("mark") === "none" ? "mark=none" : `mark=${quoted(value("mark"))}`);
        }
        add("stars", ">=", value("least-stars"));
        const scorer = value("score-of");
        if (scorer) {
            add(quoted(scorer), ">=", value("score-from"));
            add(quoted(scorer), "<=", value("score-to"));
        }
        if (value("where")) {
            parts.push(`(${value("where")})`);
        }
        return parts.join(" ");
    }

    // --- the fields -----------------------------------------------------------------------------------------------

    const labelled = (text, ...nodes) => lib.make("label", {}, text, ...nodes);

    function build() {
        const show_ = lib.guarded(lib.grid.show);
        const field = (tag, name, props = {}) => {
            const node = lib.named(tag, name, props);
            node.addEventListener("change", show_);
            return node;
        };
        const select = (name, ...options) => {
            const node = field("select", name);
            node.append(...options.map(([option, text]) => lib.option(option, text)));
            return node;
        };
        const by = select("by", ["date", "date"]);
        by.addEventListener("change", drawOrders);
        const number = {type: "number", step: "any"};
        const more = lib.make(
            "details",
            {},
            lib.make("summary", {textContent: "Filters"}),
            lib.named(
                "div",
                "bar imagereward-library-filters",
                {},
                labelled(
                    "Mark",
                    select("mark", ["", "any"], ["keep", "keep ✓"], ["reject", "reject ✗"], ["none", "none"]),
                ),
                labelled(
                    "Stars",
                    select(
                        "least-stars",
                        ["", "any"],
                        ...[1, 2, 3, 4, 5].map((n) => [String(n), `${"★".repeat(n)}${n < 5 ? " or more" : ""}`]),
                    ),
                ),
                labelled("Checkpoint", select("checkpoint", ["", "any"])),
                labelled("LoRA", select("lora", ["", "any"])),
                labelled("Folder", select("folder", ["", "all"])),
                labelled("From", field("input", "since", {type: "date"})),
                labelled("to", field("input", "until", {type: "date"})),
                labelled("Score of", select("score-of", ["", "–"])),
                labelled("from", field("input", "score-from", number)),
                labelled("to", field("input", "score-to", number)),
                labelled(
                    "Better than",
                    field("input", "least", {
                        type: "number",
                        min: 0,
                        max: 99,
                        step: 1,
                        placeholder: "0",
                        title: "percentile among your pictures, of the scorer that the grid is ordered by",
                    }),
                    "% of mine",
                ),
                labelled(
                    "Question",
                    field("input", "where", {
                        placeholder: "steps>=20 (stars>=4 or seed=1)",
                        title: "the language of `imagereward library --where`",
                    }),
                ),
                lib.button("Clear", () => {
                    more.querySelectorAll("input, select").forEach((node) => {
                        node.value = "";
                    });
                    lib.part("words").value = "";
                    return lib.grid.show();
                }),
            ),
        );
        const words = field("input", "words", {type: "search", placeholder: "words of the prompt"});
        words.addEventListener("search", show_);
        return [
            lib.named(
                "div",
                "bar",
                {},
                labelled("Order by", by),
                select("order", ["best", "newest first"], ["worst", "oldest first"]),
                words,
                lib.button("Show", lib.grid.show),
                lib.named("span", "found", {role: "status"}),
            ),
            more,
        ];
    }

    function drawOrders() {
        const by = lib.part("by").value;
        const orders =
            by === "date"
                ? [
                      ["best", "newest first"],
                      ["worst", "oldest first"],
                  ]
                : by === "stars"
                  ? [
                        ["best", "most first"],
                        ["worst", "fewest first"],
                    ]
                  : [
                        ["best", "best first"],
                        ["worst", "worst first"],
                        ["rank", "by rank among the same checkpoint's"],
                    ];
        lib.options(
            lib.part("order"),
            orders.map(([option, text]) => lib.option(option, text)),
        );
    }

    function counted(one) {
        const hash = one.name && one.hash ? ` [${one.hash}]` : "";
        return `${one.name || one.hash}${hash} (${one.pictures})`;
    }

    function refreshed() {
        const {scorers, made_with, folders} = lib.state;
        const plain = scorers.map((name) => [name, name]);
        const checkpoints = made_with.checkpoint.map((one) => [
            one.hash.length >= 6 ? one.hash : one.name,
            counted(one),
        ]);
        const offered = {
            by: [["date", "date"], ["stars", "stars"], ...plain],
            "score-of": [["", "–"], ...plain],
            checkpoint: [["", "any"], ...checkpoints],
            lora: [["", "any"], ...made_with.lora.map((one) => [one.name, counted(one)])],
            folder: [["", "all"], ...folders.map((one) => [one.path, `${one.name} (${one.pictures})`])],
        };
        for (const [name, options] of Object.entries(offered)) {
            lib.options(
                lib.part(name),
                options.map(([option, text]) => lib.option(option, text)),
            );
        }
        drawOrders();
    }

    lib.filters = {question, folder: () => value("folder"), build, refreshed};
})();
