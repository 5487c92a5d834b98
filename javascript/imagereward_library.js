// The library tab: what its parts share. Each part (grid, large view, duels, leaderboard) is a script of its own that
// adds itself to `parts`: `build()` gives its elements, `refreshed()` is called when the state was read anew, `grown()`
// when the tab is opened on a library that has changed since.
//
// Everything is written with textContent and DOM calls, never innerHTML: names and prompts come from files.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    const POLL_MS = 700,
        PLACE = "imagereward-library";
    let polling = false,
        told = null; // number of the last work that the parts were told of
    lib.parts = lib.parts || {};
    lib.state = null;
    lib.root = null;

    lib.make = function (tag, props, ...children) {
        const node = Object.assign(document.createElement(tag), props || {});
        node.append(...children);
        return node;
    };

    // An element with our class of that name.
    lib.named = (tag, name, props, ...children) =>
        lib.make(tag, {className: `${PLACE}-${name}`, ...props}, ...children);

    lib.part = (name) => lib.root.querySelector(`.${PLACE}-${name}`);

    lib.ask = async function (path, body) {
        const headers = {"X-ImageReward-Token": lib.root.dataset.token};
        if (body !== undefined) {
            headers["Content-Type"] = "application/json";
        }
        const answer = await fetch(lib.root.dataset.prefix.replace(/^\//, "") + path, {
            method: body === undefined ? "GET" : "POST",
            headers,
            body: body === undefined ? undefined : JSON.stringify(body),
        });
        if (!answer.ok) {
            let detail = answer.statusText;
            try {
                detail = (await answer.json()).detail || detail;
            } catch (error) {
                /* not JSON: the status line says enough */
            }
            throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
        }
        return answer;
    };

    lib.json = async (...args) => (await lib.ask(...args)).json();

    lib.say = function (text, isError) {
        for (const line of lib.root.querySelectorAll(`.${PLACE}-say`)) {
            line.textContent = text;
            line.classList.toggle(`${PLACE}-error`, !!isError);
        }
    };

    lib.guarded = (action) => async (event) => {
        try {
            await action(event);
        } catch (error) {
            lib.say(error.message, true);
        }
    };

    lib.button = function (text, action, title) {
        const node = lib.make("button", {type: "button", textContent: text, title: title || ""});
        node.addEventListener("click", lib.guarded(action));
        return node;
    };

    // A button that cannot be pressed while something is under way in the background.
    lib.working = function (text, action, title) {
        const node = lib.button(
            text,
            async () => {
                await action();
                await lib.refresh();
            },
            title,
        );
        node.dataset.work = "1";
        return node;
    };

    lib.option = (value, text) => lib.make("option", {value, textContent: text});

    // New options for a select; what was chosen stays chosen if it is still there.
    lib.options = function (select, options) {
        const chosen = select.value;
        const same =
            select.options.length === options.length &&
            options.every(
                (option, i) =>
                    option.value === select.options[i].value && option.textContent === select.options[i].textContent,
            );
        if (same) {
            return;
        }
        select.replaceChildren(...options);
        if ([...select.options].some((option) => option.value === chosen)) {
            select.value = chosen;
        }
    };

    // A picture needs the page's token, which an address in src cannot carry.
    lib.blob = async (path) => (await lib.ask(path)).blob();

    lib.load = async function (img, path) {
        const address = URL.createObjectURL(await lib.blob(path));
        img.onload = () => URL.revokeObjectURL(address);
        img.src = address;
    };

    // Keeps what the server answers as a file of the browser's.
    lib.save = function (blob, name) {
        const address = URL.createObjectURL(blob);
        lib.make("a", {href: address, download: name}).click();
        setTimeout(() => URL.revokeObjectURL(address), 60000);
    };

    const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
    lib.pictures = (number) => count(number, "picture");

    // --- what is under way -----------------------------------------------------------------------------------------

    function drawWork() {
        const {what, running, done, total, error, said} = lib.state.work;
        lib.part("work").textContent = running ? `${what} … ${total ? `${done} of ${total}` : ""}` : said;
        if (error) {
            lib.say(error, true);
        }
        for (const node of lib.root.querySelectorAll("[data-work]")) {
            node.disabled = running;
        }
    }

    // Ask how far it is until it is done; then everything is read anew, by which the parts learn of it.
    async function poll() {
        if (polling) {
            return;
        }
        polling = true;
        try {
            while (lib.state.work.running) {
                await new Promise((done) => setTimeout(done, POLL_MS));
                Object.assign(lib.state, await lib.json("/work"));
                drawWork();
            }
        } finally {
            polling = false;
        }
        await lib.refresh();
    }

    // Tell the parts once of each work that ended, also of one that was over before anybody asked how far it is.
    async function tell() {
        const {what, number, running} = lib.state.work;
        if (told === null) {
            told = running ? number - 1 : number; // the page is new: what ended before it is seen anyway
        }
        if (!running && told !== number) {
            told = number;
            for (const part of Object.values(lib.parts)) {
                await (part.done || (() => {}))(what);
            }
        }
    }

    lib.settled = async function () {
        while (polling || lib.state.work.running) {
            await new Promise((done) => setTimeout(done, 50));
        }
        if (lib.state.work.error) {
            throw new Error(lib.state.work.error);
        }
    };

    lib.refresh = async function () {
        lib.state = await lib.json("/state");
        const {there, pictures, place} = lib.state;
        lib.part("place").textContent = there
            ? `${lib.pictures(pictures)} in ${place}`
            : `No library yet: it will be kept in ${place}, on this machine only.`;
        lib.part("forget").hidden = !there;
        for (const part of Object.values(lib.parts)) {
            (part.refreshed || (() => {}))();
        }
        drawWork();
        if (lib.state.work.running) {
            lib.guarded(poll)();
        }
        await tell();
    };

    async function forget() {
        const {place} = lib.state;
        if (
            !window.confirm(
                `Delete the library ${place}?\n\n` +
                    "Scores, marks, stars, duels and tastes are forgotten. The pictures stay where they are.",
            )
        ) {
            return;
        }
        await lib.json("/forget", {});
        await lib.refresh();
        for (const part of Object.values(lib.parts)) {
            await (part.emptied || (() => {}))();
        }
        lib.say("The library was deleted. Your pictures are where they were.");
    }

    // --- the page --------------------------------------------------------------------------------------------------

    // The parts of the page, one of which is seen.
    function pages() {
        const shown = {};
        const tabs = lib.named("div", "tabs", {role: "tablist"});
        const choose = (name) => {
            for (const [other, {tab, page}] of Object.entries(shown)) {
                tab.setAttribute("aria-selected", other === name);
                page.hidden = other !== name;
            }
        };
        for (const [name, text] of [
            ["pictures", "Pictures"],
            ["leaderboard", "Leaderboard"],
        ]) {
            const elements = Object.values(lib.parts)
                .filter((part) => part.page === name)
                .flatMap((part) => part.build());
            const page = lib.named("div", `page-${name}`, {role: "tabpanel"}, ...elements);
            const tab = lib.button(text, async () => {
                choose(name);
                lib.say("");
                for (const part of Object.values(lib.parts).filter((one) => one.page === name)) {
                    await (part.opened || (() => {}))();
                }
            });
            tab.setAttribute("role", "tab");
            shown[name] = {tab, page};
            tabs.append(tab);
        }
        choose("pictures");
        return [tabs, ...Object.values(shown).map(({page}) => page)];
    }

    function build() {
        const forgetting = lib.working(
            "Delete the library …",
            forget,
            "forgets scores, marks, stars, duels and tastes; no picture is deleted",
        );
        forgetting.classList.add(`${PLACE}-forget`);
        lib.root.replaceChildren(
            lib.named(
                "div",
                "bar",
                {},
                lib.named("span", "place"),
                lib.working("Read my pictures", () => lib.json("/read", {}), "reads what is new in the known folders"),
                forgetting,
                lib.named("span", "work", {role: "status"}),
            ),
            ...pages(),
        );
    }

    // What jobs made meanwhile is there when the tab is opened.
    async function seen() {
        if (lib.state.work.running) {
            return; // everything is read anew when that is done
        }
        const {there, pictures} = lib.state;
        await lib.refresh();
        if (there === lib.state.there && pictures === lib.state.pictures) {
            return;
        }
        for (const part of Object.values(lib.parts)) {
            await (part.grown || (() => {}))();
        }
    }

    async function start() {
        const found = document.getElementById(PLACE);
        if (!found || found === lib.root) {
            return;
        }
        lib.root = found;
        try {
            build();
            await lib.refresh();
            for (const part of Object.values(lib.parts)) {
                await (part.started || (() => {}))();
            }
            new IntersectionObserver((entries) => {
                if (entries[entries.length - 1].isIntersecting) {
                    lib.guarded(seen)();
                }
            }).observe(lib.root);
        } catch (error) {
            lib.root.textContent = `The library tab could not be built: ${error.message}`;
            lib.root = null;
        }
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(start);
    } else {
        document.addEventListener("DOMContentLoaded", start);
    }
})();
