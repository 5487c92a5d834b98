// The library's grid: all pictures of a question in one scroll, of which only those in the window exist as elements; and
// what is done with those that are chosen by click, shift or keys.
//
// The server gives the ids of all pictures in order; what is shown of them, and thumbnails, are asked for as they come
// into the window. A mark changes no order: the list stays as it is until it is asked for again.
(function () {
    "use strict";

    const lib = window.imagerewardLibrary = window.imagerewardLibrary || {};
    lib.parts = lib.parts || {};
    const CELL = 148, GAP = 8, HEIGHT = 232;  // pixels, as in style.css
    const AROUND = 2;  // rows beyond the window that exist
    const AT_ONCE = 150, LOADING = 6;  // pictures described by one request, thumbnails loaded at a time
    const KNOWN = 4000, KEPT = 900;  // descriptions and thumbnails kept in memory
    const QUIET_MS = 70;  // of no scrolling, before anything is asked for
    const UNDO_KEYS = ["z", "Z"];

    const grid = lib.grid = {ids: [], places: new Map(), by: "", total: 0, known: new Map(), chosen: new Set(), cursor: -1, anchor: -1};
    const cells = new Map();  // position in the list → element
    const thumbnails = new Map();  // id → address
    const loading = new Set(), failed = new Set();
    let box, space, columns = 1, frame = 0, quiet = 0, describing = false;
    let asked = 0, drawn = 0;  // the newest question, and the one whose answer is seen

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
    grid.question = question;
    grid.folder = () => value("folder");

    async function show() {
        const turn = ++asked;
        const by = value("by");
        const query = new URLSearchParams({by, order: value("order"), where: question(), folder: value("folder"), least: value("least") || 0});
        const found = await lib.json(`/pictures?${query}`);
        if (turn !== asked) {
            return;  // another question was asked meanwhile
        }
        drawn = turn;
        grid.ids = found.ids;
        grid.places = new Map(found.ids.map((id, index) => [id, index]));
        grid.by = found.by;
        grid.total = found.total;
        grid.known.clear();
        grid.chosen.clear();
        grid.cursor = grid.anchor = -1;
        failed.clear();
        clear();
        box.scrollTop = 0;
        layout();
        const lacking = found.total - found.ids.length;
        const scored = by !== "date" && by !== "stars";
        const without = lacking && scored ? ` · ${lib.pictures(lacking)} not scored by ${found.by}, or below the percentile` : "";
        const told = found.caveat ? ` · ${found.caveat}` : "";
        lib.part("found").textContent = `${lib.pictures(found.ids.length)}${without}${told}`;
        lib.say(found.ids.length || !lib.state.pictures ? "" : "no picture answers this question");
        drawChosen();
    }
    grid.show = show;

    // --- what exists of it ----------------------------------------------------------------------------------------

    function clear() {
        for (const cell of cells.values()) {
            cell.remove();
        }
        cells.clear();
    }

    function layout() {
        const first = Math.floor(box.scrollTop / HEIGHT) * columns;
        columns = Math.max(1, Math.floor((box.clientWidth - GAP) / (CELL + GAP)));
        space.style.height = `${Math.ceil(grid.ids.length / columns) * HEIGHT}px`;
        for (const [index, cell] of cells) {
            put(cell, index);
        }
        if (Math.floor(box.scrollTop / HEIGHT) * columns !== first) {
            box.scrollTop = Math.floor(first / columns) * HEIGHT;
        }
        draw();
    }

    function put(cell, index) {
        const width = 100 / columns;
        cell.style.width = `calc(${width}% - ${GAP}px)`;
        cell.style.left = `${(index % columns) * width}%`;
        cell.style.top = `${Math.floor(index / columns) * HEIGHT}px`;
    }

    function inWindow(around) {
        const first = Math.max(0, Math.floor(box.scrollTop / HEIGHT) - around) * columns;
        const last = Math.ceil((box.scrollTop + box.clientHeight) / HEIGHT + around) * columns;
        return [first, Math.min(grid.ids.length, last)];
    }

    // Fill the window: cells that left it are used again, so that scrolling makes no elements.
    function draw() {
        frame = 0;
        if (!box.clientWidth) {
            return;  // another tab of the host is shown
        }
        const [first, last] = inWindow(AROUND);
        const free = [];
        for (const [index, cell] of cells) {
            if (index < first || index >= last) {
                free.push(cell);
                cells.delete(index);
            }
        }
        const fresh = document.createDocumentFragment();
        for (let index = first; index < last; index++) {
            if (!cells.has(index)) {
                const cell = free.pop() || fresh.appendChild(made());
                cells.set(index, cell);
                assign(cell, index);
            }
        }
        free.forEach((cell) => cell.remove());
        space.append(fresh);
        clearTimeout(quiet);
        quiet = setTimeout(() => {
            lib.guarded(describe)();
            loadSome();
        }, QUIET_MS);
    }

    function drawSoon() {
        frame = frame || requestAnimationFrame(draw);
    }

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
        const caption = lib.make("figcaption", {},
            lib.make("div", {}, lib.named("span", "score"), lib.named("span", "percent")),
            lib.make("div", {}, small("keep", "✓", "keep"), small("reject", "✗", "reject"), lib.named("span", "stars", {}, ...stars)));
        const cell = lib.make("figure", {}, lib.make("img", {alt: "", draggable: false}), tick, caption);
        cell.setAttribute("role", "option");
        return cell;
    }

    // Let a cell show the picture at that place.
    function assign(cell, index) {
        const id = grid.ids[index];
        cell.id = `imagereward-library-${id}`;
        cell.dataset.id = id;
        cell.setAttribute("aria-posinset", index + 1);
        cell.setAttribute("aria-setsize", grid.ids.length);
        put(cell, index);
        const img = cell.firstChild;
        if (thumbnails.has(id)) {
            img.src = thumbnails.get(id);
        } else {
            img.removeAttribute("src");
        }
        cell.toggleAttribute("data-failed", failed.has(id));
        fill(cell, id);
        look(cell, index);
    }

    // How a cell looks by what was chosen.
    function look(cell, index) {
        cell.setAttribute("aria-selected", grid.chosen.has(grid.ids[index]));
        cell.classList.toggle("imagereward-library-cursor", index === grid.cursor);
    }

    function lookAll() {
        cells.forEach(look);
        if (grid.cursor >= 0) {
            box.setAttribute("aria-activedescendant", `imagereward-library-${grid.ids[grid.cursor]}`);
        }
        drawChosen();
    }

    // A cell's text and buttons, once the picture is described; until then its caption is not seen.
    function fill(cell, id) {
        const picture = grid.known.get(id);
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
        cell.setAttribute("aria-label", [picture.name, number, picture.mark || "", picture.stars ? `${picture.stars} stars` : ""].filter(Boolean).join(", "));
        cell.querySelector(".imagereward-library-score").textContent = number;
        cell.querySelector(".imagereward-library-percent").textContent = picture.percent === null ? "" : `${picture.percent} %`;
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
    function pressed(act, id) {
        const picture = grid.known.get(id);
        if (!picture) {
            return;
        }
        const change = act === "keep" || act === "reject" ? {mark: picture.mark === act ? "" : act} : {stars: picture.stars === Number(act) ? 0 : Number(act)};
        lib.guarded(() => judge([id], change))();
    }

    // Ask what the pictures of the window are, those nearest to it first.
    async function describe() {
        if (describing) {
            return;
        }
        const [first, last] = inWindow(AROUND);
        const missing = grid.ids.slice(first, last).filter((id) => !grid.known.has(id));
        if (!missing.length) {
            return;
        }
        for (let index = last; missing.length < AT_ONCE && index < Math.min(grid.ids.length, last + AT_ONCE); index++) {
            if (!grid.known.has(grid.ids[index])) {
                missing.push(grid.ids[index]);
            }
        }
        describing = true;
        const turn = drawn;
        try {
            await learn(missing.slice(0, 2 * AT_ONCE), turn);
        } finally {
            describing = false;
        }
        await describe();  // the window may have moved on
    }

    async function learn(ids, turn = drawn) {
        const {pictures} = await lib.json("/described", {ids: ids.join(","), by: grid.by});
        if (turn !== drawn) {
            return;
        }
        for (const id of ids) {
            // one that is gone is remembered as nothing, so that it is not asked for again
            grid.known.set(id, grid.known.get(id) || null);
        }
        for (const picture of pictures) {
            grid.known.set(picture.id, picture);
        }
        while (grid.known.size > KNOWN) {
            grid.known.delete(grid.known.keys().next().value);
        }
        for (const [index, cell] of cells) {
            if (ids.includes(grid.ids[index])) {
                fill(cell, grid.ids[index]);
            }
        }
    }
    grid.learn = learn;

    // Load thumbnails of the window, a few at a time.
    function loadSome() {
        const [first, last] = inWindow(AROUND);
        for (let index = first; index < last && loading.size < LOADING; index++) {
            const id = grid.ids[index];
            if (!thumbnails.has(id) && !loading.has(id) && !failed.has(id)) {
                loading.add(id);
                loadOne(id);
            }
        }
    }

    async function loadOne(id) {
        try {
            thumbnails.set(id, URL.createObjectURL(await lib.blob(`/thumbnail/${id}`)));
        } catch (error) {
            failed.add(id);
        }
        loading.delete(id);
        const cell = cells.get(grid.places.get(id));
        if (cell && thumbnails.has(id)) {
            cell.querySelector("img").src = thumbnails.get(id);
        } else if (cell) {
            cell.toggleAttribute("data-failed", true);
        }
        for (const old of thumbnails.keys()) {
            if (thumbnails.size <= KEPT) {
                break;
            }
            if (!cells.has(grid.places.get(old))) {
                URL.revokeObjectURL(thumbnails.get(old));
                thumbnails.delete(old);
            }
        }
        loadSome();
    }

    // --- choosing -------------------------------------------------------------------------------------------------

    function choose(index, {extend, toggle}) {
        const id = grid.ids[index];
        if (extend && grid.anchor >= 0) {
            if (!toggle) {
                grid.chosen.clear();
            }
            const [from, to] = [Math.min(grid.anchor, index), Math.max(grid.anchor, index)];
            grid.ids.slice(from, to + 1).forEach((one) => grid.chosen.add(one));
        } else if (toggle) {
            grid.chosen[grid.chosen.has(id) ? "delete" : "add"](id);
            grid.anchor = index;
        } else {
            grid.chosen.clear();
            grid.chosen.add(id);
            grid.anchor = index;
        }
        grid.cursor = index;
        lookAll();
    }

    // The chosen pictures in the grid's order; without any, the one that the keys are on.
    grid.selection = function () {
        if (grid.chosen.size) {
            return grid.ids.filter((id) => grid.chosen.has(id));
        }
        return grid.cursor >= 0 ? [grid.ids[grid.cursor]] : [];
    };

    function reveal(index) {
        const top = Math.floor(index / columns) * HEIGHT;
        if (top < box.scrollTop) {
            box.scrollTop = top;
        } else if (top + HEIGHT > box.scrollTop + box.clientHeight) {
            box.scrollTop = top + HEIGHT - box.clientHeight;
        }
        draw();
    }

    grid.go = function (index) {
        if (index >= 0 && index < grid.ids.length) {
            grid.cursor = grid.anchor = index;
            grid.chosen.clear();
            grid.chosen.add(grid.ids[index]);
            reveal(index);
            lookAll();
        }
    };

    function moved(key) {
        const rows = Math.max(1, Math.floor(box.clientHeight / HEIGHT));
        const last = grid.ids.length - 1;
        const at = Math.max(grid.cursor, 0);
        const to = {
            ArrowLeft: at - 1, ArrowRight: grid.cursor < 0 ? 0 : at + 1, ArrowUp: at - columns, ArrowDown: at + columns,
            PageUp: at - rows * columns, PageDown: at + rows * columns, Home: 0, End: last,
        }[key];
        return to === undefined ? undefined : Math.min(last, Math.max(0, to));
    }

    function keys(event) {
        if (!grid.ids.length || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
            return;
        }
        const command = event.ctrlKey || event.metaKey;
        const to = moved(event.key);
        let action = null;
        if (to !== undefined) {
            action = () => {
                if (command && !event.shiftKey) {
                    grid.cursor = to;
                    lookAll();
                } else {
                    choose(to, {extend: event.shiftKey, toggle: false});
                }
                reveal(to);
            };
        } else if (command && event.key.toLowerCase() === "a") {
            action = chooseAll;
        } else if (command && UNDO_KEYS.includes(event.key)) {
            action = takeBack;
        } else if (!command) {
            const star = "012345".indexOf(event.key);
            action = {
                " ": () => grid.cursor >= 0 && choose(grid.cursor, {toggle: true}),
                Enter: () => grid.cursor >= 0 && lib.view.open(grid.cursor),
                Escape: chooseNone, k: () => toggleMark("keep"), x: () => toggleMark("reject"),
            }[event.key] || (event.key.length === 1 && star >= 0 ? () => judge(grid.selection(), {stars: star}) : null);
        }
        if (action) {
            event.preventDefault();
            event.stopPropagation();
            lib.guarded(action)();
        }
    }

    function chooseAll() {
        grid.chosen = new Set(grid.ids);
        lookAll();
    }

    function chooseNone() {
        grid.chosen.clear();
        lookAll();
    }

    function clicked(event) {
        const cell = event.target.closest("figure");
        const button = event.target.closest("button");
        if (!cell || button) {
            return button && pressed(button.dataset.act, Number(cell.dataset.id));
        }
        const index = grid.places.get(Number(cell.dataset.id));
        const ticked = event.target.closest(".imagereward-library-tick");
        choose(index, {extend: event.shiftKey, toggle: !!ticked || event.ctrlKey || event.metaKey});
    }

    // --- what is done with them -----------------------------------------------------------------------------------

    async function judge(ids, change) {
        if (!ids.length) {
            return;
        }
        const {undo} = await lib.json("/mark", {ids: ids.join(","), ...change});
        lib.state.undo = undo;
        // what the page knows of them follows at once
        for (const id of ids) {
            const picture = grid.known.get(id);
            if (picture) {
                picture.mark = change.mark === undefined ? picture.mark : change.mark || null;
                picture.stars = change.stars === undefined ? picture.stars : change.stars || null;
            }
        }
        for (const [index, cell] of cells) {
            fill(cell, grid.ids[index]);
        }
        drawChosen();
        box.focus({preventScroll: true});
    }
    grid.judge = judge;

    const toggleMark = (mark) => {
        const ids = grid.selection();
        const all = ids.every((id) => (grid.known.get(id) || {}).mark === mark);
        return judge(ids, {mark: all ? "" : mark});
    };
    grid.toggleMark = toggleMark;

    async function takeBack() {
        if (!lib.state.undo) {
            lib.say("nothing to undo");
            return;
        }
        const {said} = await lib.json("/takeback", {id: lib.state.undo.id});
        await lib.refresh();
        await relearn();
        lib.say(said);
    }

    // Describe anew what the window shows.
    async function relearn() {
        grid.known.clear();
        await describe();
        drawChosen();
    }

    async function move() {
        const ids = grid.selection();
        const [root, name] = [value("move-root"), value("move-name")];
        await lib.json("/move", {ids: ids.join(","), root, name});
        await lib.refresh();
        await lib.settled();
        lib.say(lib.state.work.said);
        await relearn();
    }

    async function scoreThem() {
        const ids = grid.selection();
        await lib.json("/score", {ids: (ids.length ? ids : grid.ids).join(","), scorer: value("scoring")});
    }

    const exported = (form) => async () => {
        const ids = grid.selection();
        lib.save(await (await lib.ask("/export", {ids: (ids.length ? ids : grid.ids).join(","), form})).blob(), `imagereward-library.${form}`);
    };

    function drawChosen() {
        const number = grid.chosen.size;
        lib.part("chosen").textContent = number ? `${lib.pictures(number)} chosen` : "Click a picture; Shift and Ctrl choose several";
        lib.root.querySelectorAll("[data-needs]").forEach((node) => {
            node.disabled = node.dataset.needs === "one" ? number !== 1 : !number;
        });
        const undo = lib.part("take-back");
        undo.hidden = !lib.state.undo;
        undo.textContent = lib.state.undo ? `Undo (${lib.state.undo.what})` : "";
    }

    // --- the page's elements --------------------------------------------------------------------------------------

    const labelled = (text, ...nodes) => lib.make("label", {}, text, ...nodes);

    function filters() {
        const show_ = lib.guarded(show);
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
        const more = lib.make("details", {}, lib.make("summary", {textContent: "Filters"}),
            lib.named("div", "bar imagereward-library-filters", {},
                labelled("Mark", select("mark", ["", "any"], ["keep", "keep ✓"], ["reject", "reject ✗"], ["none", "none"])),
                labelled("Stars", select("least-stars", ["", "any"], ...[1, 2, 3, 4, 5].map((n) => [String(n), `${"★".repeat(n)}${n < 5 ? " or more" : ""}`]))),
                labelled("Checkpoint", select("checkpoint", ["", "any"])),
                labelled("LoRA", select("lora", ["", "any"])),
                labelled("Folder", select("folder", ["", "all"])),
                labelled("From", field("input", "since", {type: "date"})),
                labelled("to", field("input", "until", {type: "date"})),
                labelled("Score of", select("score-of", ["", "–"])),
                labelled("from", field("input", "score-from", number)),
                labelled("to", field("input", "score-to", number)),
                labelled("Better than", field("input", "least", {type: "number", min: 0, max: 99, step: 1, placeholder: "0", title: "percentile among your pictures, of the scorer that the grid is ordered by"}), "% of mine"),
                labelled("Question", field("input", "where", {placeholder: 'steps>=20 (stars>=4 or seed=1)', title: "the language of `imagereward library --where`"})),
                lib.button("Clear", () => {
                    more.querySelectorAll("input, select").forEach((node) => { node.value = ""; });
                    lib.part("words").value = "";
                    return show();
                }),
            ));
        const words = field("input", "words", {type: "search", placeholder: "words of the prompt"});
        words.addEventListener("search", show_);
        return [
            lib.named("div", "bar", {}, labelled("Order by", by), select("order", ["best", "newest first"], ["worst", "oldest first"]), words,
                lib.button("Show", show), lib.named("span", "found", {role: "status"})),
            more,
        ];
    }

    function drawOrders() {
        const by = lib.part("by").value;
        const orders = by === "date" ? [["best", "newest first"], ["worst", "oldest first"]]
            : by === "stars" ? [["best", "most first"], ["worst", "fewest first"]]
                : [["best", "best first"], ["worst", "worst first"], ["rank", "by rank among the same checkpoint's"]];
        lib.options(lib.part("order"), orders.map(([option, text]) => lib.option(option, text)));
    }

    function actions() {
        const needs = (node, what = "some") => {
            node.dataset.needs = what;
            return node;
        };
        const stars = needs(lib.named("select", "set-stars", {title: "stars for the chosen pictures"}, lib.option("", "stars …"), lib.option("0", "no stars"), ...[1, 2, 3, 4, 5].map((n) => lib.option(n, "★".repeat(n)))));
        stars.addEventListener("change", lib.guarded(async () => {
            const number = stars.value;
            stars.value = "";
            await judge(grid.selection(), {stars: Number(number)});
        }));
        const moving = needs(lib.button("Move", move, "moves the files, and the texts beside them; never onto another file"));
        const undo = lib.button("Undo", takeBack, "Ctrl+Z");
        undo.className = "imagereward-library-take-back";
        undo.hidden = true;
        return lib.named("div", "bar imagereward-library-actions", {},
            lib.named("span", "chosen"),
            needs(lib.button("Keep", () => judge(grid.selection(), {mark: "keep"}), "K")),
            needs(lib.button("Reject", () => judge(grid.selection(), {mark: "reject"}), "X")),
            needs(lib.button("No mark", () => judge(grid.selection(), {mark: ""}))),
            stars,
            lib.make("span", {className: "imagereward-library-group"}, needs(lib.named("select", "move-root", {title: "known folder"})), "/",
                needs(lib.named("input", "move-name", {placeholder: "folder below it", title: "is made if there is none"})), moving),
            lib.make("span", {className: "imagereward-library-group"}, lib.named("select", "scoring", {title: "a scorer, or a taste"}),
                lib.working("Score", scoreThem, "the chosen pictures, or all that are shown, where it has not scored them yet")),
            lib.button("CSV", exported("csv"), "a table of the chosen pictures, or of all that are shown"),
            lib.button("JSONL", exported("jsonl"), "the same as JSON lines"),
            needs(lib.button("txt2img", () => lib.view.toTxt2img(grid.selection()[0]), "prompt and settings into txt2img"), "one"),
            needs(lib.button("PNG Info", () => lib.view.toPngInfo(grid.selection()[0]), "the file into PNG Info"), "one"),
            lib.button("All", chooseAll, "Ctrl+A"),
            needs(lib.button("None", chooseNone, "Esc")),
            undo,
        );
    }

    function build() {
        space = lib.named("div", "space");
        box = lib.named("div", "grid", {tabIndex: 0, title: ""}, space);
        box.setAttribute("role", "listbox");
        box.setAttribute("aria-multiselectable", "true");
        box.setAttribute("aria-label", "pictures");
        box.addEventListener("scroll", drawSoon, {passive: true});
        box.addEventListener("keydown", keys);
        box.addEventListener("click", clicked);
        box.addEventListener("dblclick", (event) => {
            const cell = event.target.closest("figure");
            if (cell && !event.target.closest("button")) {
                lib.view.open(grid.places.get(Number(cell.dataset.id)));
            }
        });
        new ResizeObserver(layout).observe(box);
        return [...filters(), actions(), lib.named("p", "say", {role: "status"}), box];
    }

    const counted = (one) => `${one.name || one.hash}${one.name && one.hash ? ` [${one.hash}]` : ""} (${one.pictures})`;

    function refreshed() {
        const {scorers, made_with, folders, roots, loadable} = lib.state;
        const plain = (names) => names.map((name) => lib.option(name, name));
        lib.options(lib.part("by"), [lib.option("date", "date"), lib.option("stars", "stars"), ...plain(scorers)]);
        lib.options(lib.part("score-of"), [lib.option("", "–"), ...plain(scorers)]);
        lib.options(lib.part("scoring"), plain(loadable));
        const named = (one) => (one.hash.length >= 6 ? one.hash : one.name);
        lib.options(lib.part("checkpoint"), [lib.option("", "any"), ...made_with.checkpoint.map((one) => lib.option(named(one), counted(one)))]);
        lib.options(lib.part("lora"), [lib.option("", "any"), ...made_with.lora.map((one) => lib.option(one.name, counted(one)))]);
        lib.options(lib.part("folder"), [lib.option("", "all"), ...folders.map((one) => lib.option(one.path, `${one.name} (${one.pictures})`))]);
        lib.options(lib.part("move-root"), roots.map((one) => lib.option(one.path, one.name)));
        drawOrders();
        drawChosen();
    }

    async function started() {
        if (lib.state.there) {
            await show();
        }
    }

    lib.parts.grid = {
        page: "pictures", build, refreshed, started,
        grown: async () => {
            if (!grid.chosen.size) {
                await show();  // else the user is in the middle of something
            }
        },
        emptied: async () => {
            grid.ids = [];
            grid.places.clear();
            grid.known.clear();
            grid.chosen.clear();
            thumbnails.forEach((address) => URL.revokeObjectURL(address));
            thumbnails.clear();
            clear();
            layout();
            drawChosen();
            lib.part("found").textContent = "";
        },
        done: async (what) => {
            if (what === "reading pictures" || what.startsWith("making ") || what.startsWith("scoring ")) {
                await show();
            }
        },
    };
})();
