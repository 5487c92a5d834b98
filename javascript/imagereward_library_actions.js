// What is done with the pictures that are chosen in the library's grid: marks and stars, moving, scoring, exports.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});

    async function judge(ids, change) {
        if (!ids.length) {
            return;
        }
        const {undo} = await lib.json("/mark", {ids: ids.join(","), ...change});
        lib.state.undo = undo;
        // what the page knows of them follows at once
        for (const id of ids) {
            const picture = lib.grid.known.get(id);
            if (picture) {
                picture.mark = change.mark === undefined ? picture.mark : change.mark || null;
                picture.stars = change.stars === undefined ? picture.stars : change.stars || null;
            }
        }
        lib.grid.refill();
        drawChosen();
    }

    // Mark the chosen pictures; where all of them have the mark, take it back.
    function toggleMark(mark) {
        const ids = lib.choosing.selection();
        const all = ids.every((id) => (lib.grid.known.get(id) || {}).mark === mark);
        return judge(ids, {mark: all ? "" : mark});
    }

    async function takeBack() {
        if (!lib.state.undo) {
            lib.say("nothing to undo");
            return;
        }
        const {said} = await lib.json("/takeback", {id: lib.state.undo.id});
        await lib.refresh();
        await lib.grid.relearn();
        lib.say(said);
    }

    async function move() {
        const ids = lib.choosing.selection();
        const [root, name] = [lib.part("move-root").value, lib.part("move-name").value.trim()];
        await lib.json("/move", {ids: ids.join(","), root, name});
        await lib.refresh();
        await lib.settled();
        lib.say(lib.state.work.said);
        await lib.grid.relearn();
    }

    // The chosen pictures, or all that are shown.
    function meant() {
        const ids = lib.choosing.selection();
        return (ids.length ? ids : lib.grid.ids).join(",");
    }

    async function scoreThem() {
        await lib.json("/score", {ids: meant(), scorer: lib.part("scoring").value});
    }

    const exported = (form) => async () => {
        const answer = await lib.ask("/export", {ids: meant(), form});
        lib.save(await answer.blob(), `imagereward-library.${form}`);
    };

    function drawChosen() {
        const number = lib.grid.chosen.size;
        const told = number ? `${lib.pictures(number)} chosen` : "Click a picture; Shift and Ctrl choose several";
        lib.part("chosen").textContent = told;
        lib.root.querySelectorAll("[data-needs]").forEach((node) => {
            node.disabled = node.dataset.needs === "one" ? number !== 1 : !number;
        });
        const undo = lib.part("take-back");
        undo.hidden = !lib.state.undo;
        undo.textContent = lib.state.undo ? `Undo (${lib.state.undo.what})` : "";
    }

    function build() {
        const needs = (node, what = "some") => {
            node.dataset.needs = what;
            return node;
        };
        const group = (...nodes) => lib.named("span", "group", {}, ...nodes);
        const stars = needs(
            lib.named(
                "select",
                "set-stars",
                {title: "stars for the chosen pictures"},
                lib.option("", "stars …"),
                lib.option("0", "no stars"),
                ...[1, 2, 3, 4, 5].map((n) => lib.option(n, "★".repeat(n))),
            ),
        );
        stars.addEventListener(
            "change",
            lib.guarded(async () => {
                const number = stars.value;
                stars.value = "";
                await judge(lib.choosing.selection(), {stars: Number(number)});
            }),
        );
        const moving = needs(
            lib.button("Move", move, "moves the files, and the texts beside them; never onto another file"),
        );
        const undo = lib.button("Undo", takeBack, "Ctrl+Z");
        undo.classList.add("imagereward-library-take-back");
        undo.hidden = true;
        return lib.named(
            "div",
            "bar imagereward-library-actions",
            {},
            lib.named("span", "chosen"),
            needs(lib.button("Keep", () => judge(lib.choosing.selection(), {mark: "keep"}), "K")),
            needs(lib.button("Reject", () => judge(lib.choosing.selection(), {mark: "reject"}), "X")),
            needs(lib.button("No mark", () => judge(lib.choosing.selection(), {mark: ""}))),
            stars,
            group(
                needs(lib.named("select", "move-root", {title: "known folder"})),
                "/",
                needs(
                    lib.named("input", "move-name", {
                        placeholder: "folder below it",
                        title: "is made if there is none",
                    }),
                ),
                moving,
            ),
            group(
                lib.named("select", "scoring", {title: "a scorer, or a taste"}),
                lib.working(
                    "Score",
                    scoreThem,
                    "the chosen pictures, or all that are shown, where it has not scored them yet",
                ),
            ),
            lib.button("CSV", exported("csv"), "a table of the chosen pictures, or of all that are shown"),
            lib.button("JSONL", exported("jsonl"), "the same as JSON lines"),
            needs(
                lib.button(
                    "txt2img",
                    () => lib.view.toTxt2img(lib.choosing.selection()[0]),
                    "prompt and settings into txt2img",
                ),
                "one",
            ),
            needs(
                lib.button("PNG Info", () => lib.view.toPngInfo(lib.choosing.selection()[0]), "the file into PNG Info"),
                "one",
            ),
            lib.button("All", lib.choosing.chooseAll, "Ctrl+A"),
            needs(lib.button("None", lib.choosing.chooseNone, "Esc")),
            undo,
        );
    }

    function refreshed() {
        const {roots, loadable} = lib.state;
        lib.options(
            lib.part("scoring"),
            loadable.map((name) => lib.option(name, name)),
        );
        lib.options(
            lib.part("move-root"),
            roots.map((one) => lib.option(one.path, one.name)),
        );
        drawChosen();
    }

    lib.actions = {judge, toggleMark, takeBack, drawChosen, build, refreshed};
})();
