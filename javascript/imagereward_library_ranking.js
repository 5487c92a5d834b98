// The library's leaderboard: which checkpoint (LoRA, sampler, CFG, steps) scores higher, or that it cannot be told yet.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    lib.parts = lib.parts || {};
    const FACTORS = [
        ["checkpoint", "checkpoint"],
        ["lora", "LoRA"],
        ["sampler", "sampler"],
        ["cfg", "CFG"],
        ["steps", "steps"],
    ];
    let shown = null,
        asked = 0;

    const signed = (number) => (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

    function drawing(text) {
        const read = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
        return read.nodeName === "svg" ? document.importNode(read, true) : lib.make("span");
    }

    function table(found) {
        const head = ["", "effect", "95 % interval", "prompts"].map((text) =>
            lib.make("th", {textContent: text, scope: "col"}),
        );
        const rows = found.levels.map((level) =>
            lib.make(
                "tr",
                {},
                lib.make("th", {textContent: level.level, scope: "row"}),
                lib.make("td", {textContent: signed(level.effect)}),
                lib.make(
                    "td",
                    {title: `${signed(level.low)} to ${signed(level.high)}`},
                    drawing(level.svg),
                    lib.make("small", {textContent: `${signed(level.low)} to ${signed(level.high)}`}),
                ),
                lib.make("td", {textContent: level.prompts}),
            ),
        );
        return lib.make(
            "table",
            {},
            lib.make("thead", {}, lib.make("tr", {}, ...head)),
            lib.make("tbody", {}, ...rows),
        );
    }

    // The two (or more) levels of a plan, in words, and then what was chosen.
    async function pairs(levels) {
        const asked = {by: shown.by, scorer: shown.scorer, levels, where: lib.part("ranking-where").value.trim()};
        const plan = await lib.json("/plan", asked);
        const box = lib.part("plan");
        const words =
            `${plan.prompts} of your prompts, each with ${plan.levels.join(" and ")} and the same new seed: ` +
            `${lib.pictures(plan.missing)} to be made, ${plan.made} there already.`;
        box.replaceChildren(
            lib.make("p", {textContent: words}),
            lib.named(
                "div",
                "bar",
                {},
                ...(plan.missing
                    ? [
                          lib.working(
                              `Make ${lib.pictures(plan.missing)}`,
                              async () => {
                                  await lib.json("/make", asked);
                                  box.replaceChildren();
                              },
                              "in the WebUI's queue, one at a time; Interrupt stops it, pressed again it goes on",
                          ),
                      ]
                    : []),
                lib.button(
                    "Save the plan",
                    () => lib.save(new Blob([plan.text], {type: "application/x-ndjson"}), "pairs.jsonl"),
                    "JSON lines, to make them elsewhere",
                ),
                lib.button("Not now", () => box.replaceChildren()),
            ),
        );
        box.scrollIntoView({block: "nearest"});
    }

    function sentence(one) {
        const line = lib.make("li", {className: one.claimed ? "imagereward-library-claimed" : ""}, one.text + " ");
        line.append(
            lib.button("Make the missing pairs …", () => pairs(one.levels), "the same prompts and seeds with both"),
        );
        return line;
    }

    async function show() {
        const query = new URLSearchParams({
            by: lib.part("factor").value,
            scorer: lib.part("ranking-scorer").value,
            where: lib.part("ranking-where").value.trim(),
            planned: lib.part("planned").checked,
        });
        lib.part("plan").replaceChildren();
        const turn = ++asked;
        const found = await lib.json(`/compare?${query}`);
        if (turn !== asked) {
            return; // another table was asked for meanwhile
        }
        shown = found;
        const box = lib.part("ranking");
        const title = lib.make(
            "p",
            {},
            lib.make("strong", {textContent: found.source}),
            ` · ${lib.pictures(found.images)}, ${found.prompts.toLocaleString("en")} prompts, by ${found.scorer}`,
        );
        if (!found.levels.length) {
            box.replaceChildren(
                title,
                lib.make("p", {textContent: "Cannot tell yet: no two have at least 3 prompts in common."}),
            );
            return;
        }
        const notes = found.disagreements.map(
            (one) =>
                `${one.scorer} sees ${one.first} and ${one.second} the other way round (${signed(one.difference)})`,
        );
        if (found.left_out.length) {
            notes.push(
                `Nothing can be said of ${found.left_out.join(", ")}: too few prompts in common with the others.`,
            );
        }
        if (found.source !== "planned pairs") {
            notes.push(
                "Habits, such as trying the favourite first, bias a table from history; planned pairs have none.",
            );
        }
        box.replaceChildren(
            title,
            table(found),
            lib.make("ul", {}, ...found.sentences.map(sentence)),
            ...notes.map((text) => lib.make("p", {textContent: text})),
        );
    }

    function build() {
        const show_ = lib.guarded(show);
        const field = (tag, name, props, ...children) => {
            const node = lib.named(tag, name, props, ...children);
            node.addEventListener("change", show_);
            return node;
        };
        return [
            lib.named(
                "div",
                "bar",
                {},
                lib.make(
                    "label",
                    {},
                    "Compare",
                    field("select", "factor", {}, ...FACTORS.map(([value, text]) => lib.option(value, text))),
                ),
                lib.make("label", {}, "by", field("select", "ranking-scorer", {})),
                lib.make("label", {}, field("input", "planned", {type: "checkbox"}), "planned pairs only"),
                lib.make(
                    "label",
                    {},
                    "Question",
                    field("input", "ranking-where", {placeholder: "steps>=20 date>=2025-06"}),
                ),
            ),
            lib.named("p", "say", {role: "status"}),
            lib.named("div", "ranking"),
            lib.named("div", "plan"),
        ];
    }

    lib.parts.ranking = {
        page: "leaderboard",
        build,
        refreshed: () =>
            lib.options(
                lib.part("ranking-scorer"),
                lib.state.scorers.map((name) => lib.option(name, name)),
            ),
        opened: async () => {
            if (lib.state.there && lib.state.scorers.length) {
                await show();
            } else {
                lib.part("ranking").replaceChildren(
                    lib.make("p", {textContent: "No picture in the library has a score yet."}),
                );
            }
        },
        grown: async () => {
            if (shown && !lib.part("plan").childElementCount) {
                await show();
            }
        },
        emptied: async () => lib.part("ranking").replaceChildren(),
        done: async (what) => {
            if (what.startsWith("making ") && shown) {
                await show();
            }
        },
    };
})();
