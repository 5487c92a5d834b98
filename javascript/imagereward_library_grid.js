// The library's grid: all pictures of a question in one scroll, of which only those in the window exist as elements;
// they are chosen by click, shift and keys.
//
// The server gives the ids of all pictures in order; what is shown of them, and thumbnails, are asked for as they come
// into the window. A mark changes no order: the list stays as it is until it is asked for again.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    lib.parts = lib.parts || {};
    const CELL = 148,
        GAP = 8,
        HEIGHT = 232; // pixels, as in style.css
    const AROUND = 2; // rows beyond the window that exist
    const AT_ONCE = 150,
        LOADING = 6; // pictures described by one request, thumbnails loaded at a time
    const KNOWN = 4000,
        KEPT = 900; // descriptions and thumbnails kept in memory
    const QUIET_MS = 70; // of no scrolling, before anything is asked for
    const grid = (lib.grid = {
        ids: [],
        places: new Map(),
        by: "",
        total: 0,
        known: new Map(),
        chosen: new Set(),
        cursor: -1,
        anchor: -1,
    });
    const cells = new Map(); // position in the list → element
    const thumbnails = new Map(); // id → address
    const loading = new Set(),
        failed = new Set();
    let box,
        space,
        columns = 1,
        frame = 0,
        quiet = 0,
        describing = false;
    let asked = 0,
        drawn = 0; // the newest question, and the one whose answer is seen

    // --- the question ---------------------------------------------------------------------------------------------

    async function show() {
        const turn = ++asked;
        const value = (name) => lib.part(name).value;
        const by = value("by");
        const query = new URLSearchParams({
            by,
            order: value("order"),
            where: lib.filters.question(),
            folder: lib.filters.folder(),
            least: value("least") || 0,
        });
        const found = await lib.json(`/pictures?${query}`);
        if (turn !== asked) {
            return; // another question was asked meanwhile
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
        const without =
            lacking && scored ? ` · ${lib.pictures(lacking)} not scored by ${found.by}, or below the percentile` : "";
        const told = found.caveat ? ` · ${found.caveat}` : "";
        lib.part("found").textContent = `${lib.pictures(found.ids.length)}${without}${told}`;
        lib.say(found.ids.length || !lib.state.pictures ? "" : "no picture answers this question");
        lib.actions.drawChosen();
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
            return; // another tab of the host is shown
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
        lib.actions.drawChosen();
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
    function pressed(act, id) {
        const picture = grid.known.get(id);
        if (!picture) {
            return;
        }
        const stars = Number(act);
        const change =
            act === "keep" || act === "reject"
                ? {mark: picture.mark === act ? "" : act}
                : {stars: picture.stars === stars ? 0 : stars};
        lib.guarded(() => lib.actions.judge([id], change))();
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
        await describe(); // the window may have moved on
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

    // Describe anew what the window shows.
    grid.relearn = async function () {
        grid.known.clear();
        await describe();
        lib.actions.drawChosen();
    };

    // Pictures that the page knows were marked: their cells follow.
    grid.refill = function () {
        for (const [index, cell] of cells) {
            fill(cell, grid.ids[index]);
        }
        box.focus({preventScroll: true});
    };

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
            ArrowLeft: at - 1,
            ArrowRight: grid.cursor < 0 ? 0 : at + 1,
            ArrowUp: at - columns,
            ArrowDown: at + columns,
            PageUp: at - rows * columns,
            PageDown: at + rows * columns,
            Home: 0,
            End: last,
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
            action = grid.chooseAll;
        } else if (command && event.key.toLowerCase() === "z") {
            action = lib.actions.takeBack;
        } else if (!command) {
            const starred = event.key.length === 1 && "012345".includes(event.key);
            action =
                {
                    " ": () => grid.cursor >= 0 && choose(grid.cursor, {toggle: true}),
                    Enter: () => grid.cursor >= 0 && lib.view.open(grid.cursor),
                    Escape: grid.chooseNone,
                    k: () => lib.actions.toggleMark("keep"),
                    x: () => lib.actions.toggleMark("reject"),
                }[event.key] ||
                (starred ? () => lib.actions.judge(grid.selection(), {stars: Number(event.key)}) : null);
        }
        if (action) {
            event.preventDefault();
            event.stopPropagation();
            lib.guarded(action)();
        }
    }

    grid.chooseAll = function () {
        grid.chosen = new Set(grid.ids);
        lookAll();
    };

    grid.chooseNone = function () {
        grid.chosen.clear();
        lookAll();
    };

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

    // --- the page's elements --------------------------------------------------------------------------------------

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
        return [...lib.filters.build(), lib.actions.build(), lib.named("p", "say", {role: "status"}), box];
    }

    function refreshed() {
        lib.filters.refreshed();
        lib.actions.refreshed();
    }

    async function started() {
        if (lib.state.there) {
            await show();
        }
    }

    lib.parts.grid = {
        page: "pictures",
        build,
        refreshed,
        started,
        grown: async () => {
            if (!grid.chosen.size) {
                await show(); // else the user is in the middle of something
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
            lib.actions.drawChosen();
            lib.part("found").textContent = "";
        },
        done: async (what) => {
            if (what === "reading pictures" || what.startsWith("making ") || what.startsWith("scoring ")) {
                await show();
            }
        },
    };
})();
