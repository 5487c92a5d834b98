// The library's grid: all pictures of a question in one scroll, of which only those in the window exist as elements.
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
    const grid = Object.assign((lib.grid = lib.grid || {}), {
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
                const cell = free.pop() || fresh.appendChild(lib.cells.made());
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
        lib.cells.fill(cell, grid.known.get(id));
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
                lib.cells.fill(cell, grid.known.get(grid.ids[index]));
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
            lib.cells.fill(cell, grid.known.get(grid.ids[index]));
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

    // Scroll no further than that the picture at that place is seen.
    function reveal(index) {
        const top = Math.floor(index / columns) * HEIGHT;
        if (top < box.scrollTop) {
            box.scrollTop = top;
        } else if (top + HEIGHT > box.scrollTop + box.clientHeight) {
            box.scrollTop = top + HEIGHT - box.clientHeight;
        }
        draw();
    }

    grid.reveal = reveal;
    grid.look = lookAll;
    grid.columns = () => columns;
    grid.rows = () => Math.max(1, Math.floor(box.clientHeight / HEIGHT)); // that are seen at once

    // --- the page's elements --------------------------------------------------------------------------------------

    function build() {
        space = lib.named("div", "space");
        box = lib.named("div", "grid", {tabIndex: 0, title: ""}, space);
        box.setAttribute("role", "listbox");
        box.setAttribute("aria-multiselectable", "true");
        box.setAttribute("aria-label", "pictures");
        box.addEventListener("scroll", drawSoon, {passive: true});
        box.addEventListener("keydown", lib.choosing.keys);
        box.addEventListener("click", lib.choosing.clicked);
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
