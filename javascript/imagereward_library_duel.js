// The library's duels by keyboard, and the taste that is learnt from them.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    lib.parts = lib.parts || {};
    let duel = null;
    let chosenFor = null; // the taste whose scorer was chosen in the list

    // Whether the pair that is seen may be decided.
    function ready(is) {
        duel.box.dataset.ready = is ? "1" : "";
    }

    async function nextPair() {
        const query = new URLSearchParams({taste: duel.taste, ...duel.from});
        const {pair} = await lib.json(`/pair?${query}`);
        if (!pair) {
            endDuel("no pair is left: a duel needs two pictures of one prompt that you have not compared yet");
            return;
        }
        duel.pair = pair;
        const images = pair.map((picture) => lib.make("img", {alt: picture.name}));
        await Promise.all(images.map((img, index) => lib.load(img, `/image/${pair[index].id}`)));
        images.forEach((img, index) => img.addEventListener("click", () => decide(index, "win")));
        duel.box.querySelector(".imagereward-library-two").replaceChildren(...images);
        duel.box.querySelector(".imagereward-library-prompt").textContent = pair[0].prompt;
        ready(true);
    }

    const decide = (index, verdict) =>
        lib.guarded(async () => {
            if (!duel || !duel.box.dataset.ready) {
                return; // the next pair is not drawn yet: a key that is held down must not decide unseen pictures
            }
            ready(false);
            const [winner, loser] = [duel.pair[index].id, duel.pair[1 - index].id];
            const kept = await lib.json("/duel", {winner, loser, verdict, taste: duel.taste});
            duel.kept.push(kept.id);
            count(kept.duels);
            lib.say("");
            await nextPair();
        })();

    async function undo() {
        const id = duel.kept.pop();
        if (id === undefined) {
            lib.say("nothing to take back");
            return;
        }
        await lib.json("/undo", {id});
        await lib.refresh();
        const known = lib.state.tastes.find((one) => one.name === duel.taste);
        count(known ? known.duels : 0);
        lib.say("taken back");
    }

    function count(duels) {
        duel.box.querySelector(".imagereward-library-count").textContent = `${duels} duels of ${duel.taste}`;
    }

    function keys(event) {
        const actions = {
            ArrowLeft: () => decide(0, "win"),
            ArrowRight: () => decide(1, "win"),
            ArrowUp: () => decide(0, "both"),
            ArrowDown: () => decide(0, "neither"),
            Backspace: lib.guarded(undo),
            Escape: () => endDuel(""),
        };
        if (actions[event.key] && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {
            event.preventDefault();
            event.stopPropagation();
            actions[event.key]();
        }
    }

    // Where the pictures come from. What was not read into the library yet is read first.
    async function source() {
        const from = lib.part("duel-from").value;
        if (from === "grid") {
            return {where: lib.filters.question(), folder: lib.filters.folder()};
        }
        const what = from === "last" ? {last: true} : {folder: from.slice("folder:".length)};
        await lib.json("/read", what);
        await lib.refresh();
        await lib.settled();
        return what;
    }

    async function beginDuel() {
        const taste = lib.part("taste").value.trim();
        const from = await source();
        const bar = lib.named(
            "div",
            "bar",
            {},
            lib.named("span", "count"),
            lib.button("← this one", () => decide(0, "win")),
            lib.button("both ↑", () => decide(0, "both")),
            lib.button("neither ↓", () => decide(0, "neither")),
            lib.button("this one →", () => decide(1, "win")),
            lib.button("Undo ⌫", undo),
            lib.button("Done Esc", () => endDuel("")),
            lib.named("span", "say"),
        );
        const box = lib.named("div", "duel", {}, lib.named("p", "prompt"), lib.named("div", "two"), bar);
        duel = {taste, from, box, kept: [], pair: null};
        lib.root.append(box);
        document.addEventListener("keydown", keys, true);
        const known = lib.state.tastes.find((one) => one.name === taste);
        count(known ? known.duels : 0);
        await lib.guarded(nextPair)();
    }

    function endDuel(text) {
        if (!duel) {
            return;
        }
        document.removeEventListener("keydown", keys, true);
        duel.box.remove();
        duel = null;
        lib.guarded(lib.refresh)().then(() => text && lib.say(text));
    }

    // --- the taste ------------------------------------------------------------------------------------------------

    const percent = (share) => `${(100 * share).toFixed(1)} %`;

    // Shown before and after each round of duels, whatever it says.
    function verdict() {
        const taste = lib.state.tastes.find((one) => one.name === lib.part("taste").value.trim());
        if (!taste || (!taste.duels && !taste.fitted)) {
            return "No duels yet. 50 are a hint, 200 are useful, little is added after 400 to 1,000.";
        }
        const lines = [`${taste.duels} duels`];
        if (!taste.fitted) {
            lines.push("not learnt yet");
        } else {
            lines.push(taste.state + (taste.state !== "ready" && taste.more ? `, about ${taste.more} more` : ""));
        }
        if (taste.accuracy !== null && taste.accuracy !== undefined) {
            lines.push(
                `foretells ${percent(taste.accuracy)} (${taste.interval.map(percent).join(" to ")}) of duels ` +
                    `it was not shown, ${taste.base.name} alone ${percent(taste.scorer_accuracy)}`,
            );
        }
        if (taste.fitted && taste.fitted !== taste.duels) {
            lines.push(`learnt from ${taste.fitted} of them`);
        }
        return lines.join(" · ");
    }

    function build() {
        const taste = lib.named("input", "taste", {value: "my-taste", title: "name of the taste"});
        taste.addEventListener("change", () => lib.guarded(lib.refresh)());
        const heading = lib.make("summary", {}, "Duels and taste · ", lib.named("span", "state"));
        return [
            lib.make(
                "details",
                {className: "imagereward-library-tastes"},
                heading,
                lib.named(
                    "div",
                    "bar",
                    {},
                    lib.make("label", {}, "Taste", taste),
                    lib.make(
                        "label",
                        {},
                        "between pictures of",
                        lib.named("select", "duel-from", {}, lib.option("grid", "what is shown below")),
                    ),
                    lib.button("Duel", beginDuel, "two pictures of one prompt: ← and → choose"),
                    lib.make("label", {}, "learn on", lib.named("select", "base")),
                    lib.working("Learn", () =>
                        lib.json("/fit", {taste: taste.value.trim(), scorer: lib.part("base").value}),
                    ),
                ),
            ),
        ];
    }

    function refreshed() {
        const {loadable, tastes, folders, last_job} = lib.state;
        const bases = loadable.filter((name) => !tastes.some((taste) => taste.name === name));
        lib.options(
            lib.part("base"),
            bases.map((name) => lib.option(name, name)),
        );
        const taste = tastes.find((one) => one.name === lib.part("taste").value.trim());
        if (taste && taste.learnt_on && chosenFor !== taste.name) {
            lib.part("base").value = taste.learnt_on; // as it was learnt last time
            chosenFor = taste.name;
        }
        const last = last_job > 1 ? [lib.option("last", `the last job (${last_job})`)] : [];
        lib.options(lib.part("duel-from"), [
            lib.option("grid", "what is shown below"),
            ...last,
            ...folders.map((one) => lib.option(`folder:${one.path}`, `folder ${one.name}`)),
        ]);
        lib.part("state").textContent = verdict();
    }

    lib.parts.duel = {page: "pictures", build, refreshed};
})();
