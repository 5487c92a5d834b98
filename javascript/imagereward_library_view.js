// The library's large view of one picture with all that is known of it, and the ways from there into the WebUI's own
// tabs.
(function () {
    "use strict";

    const lib = (window.imagerewardLibrary = window.imagerewardLibrary || {});
    lib.parts = lib.parts || {};
    const view = (lib.view = {});
    const WAIT_MS = 50,
        TRIES = 60;
    let box = null,
        index = -1,
        turn = 0;

    // --- into the WebUI's tabs -------------------------------------------------------------------------------------

    const page = () => (typeof gradioApp === "function" ? gradioApp() : document);

    async function until(found) {
        for (let i = 0; i < TRIES; i++) {
            const node = found();
            if (node) {
                return node;
            }
            await new Promise((done) => setTimeout(done, WAIT_MS));
        }
        return null;
    }

    // The button of a tab of the WebUI: gradio 4 names it, in gradio 3 it stands where its panel stands.
    function tabButton(id) {
        const named = page().getElementById
            ? page().getElementById(`${id}-button`)
            : document.getElementById(`${id}-button`);
        if (named) {
            return named;
        }
        const panels = [...page().querySelectorAll("#tabs > .tabitem")];
        return page().querySelectorAll("#tabs > .tab-nav > button")[panels.findIndex((panel) => panel.id === id)];
    }

    // The WebUI's own way: the infotext into a hidden field, and the button that its paste function is bound to.
    view.toTxt2img = async function (id) {
        const field = page().querySelector(
            "#imagereward_library_infotext textarea, #imagereward_library_infotext input",
        );
        const found = page().querySelector("#imagereward_library_to_txt2img");
        const pressed = found && (found.matches("button") ? found : found.querySelector("button"));
        if (!field || !pressed) {
            throw new Error("this WebUI offers no way into txt2img: open the file in PNG Info instead");
        }
        const {text} = await lib.json(`/infotext/${id}`);
        close();
        field.value = text;
        field.dispatchEvent(new Event("input", {bubbles: true}));
        await new Promise((done) => setTimeout(done, 2 * WAIT_MS));
        pressed.click();
    };

    // The file into the tab's image, as if it was chosen there.
    view.toPngInfo = async function (id) {
        const image = page().querySelector("#pnginfo_image");
        const tab = tabButton("tab_pnginfo");
        if (!image || !tab) {
            throw new Error("this WebUI has no tab PNG Info");
        }
        const picture = lib.grid.known.get(id) || {name: `${id}.png`};
        const blob = await lib.blob(`/image/${id}`);
        close();
        tab.click();
        const input = () => image.querySelector("input[type=file]");
        if (!input()) {
            // the one that is shown goes first
            const buttons = [...image.querySelectorAll("button")];
            const clear =
                buttons.find((button) =>
                    /clear|remove/i.test(button.getAttribute("aria-label") || button.title || ""),
                ) || buttons[buttons.length - 1];
            clear && clear.click();
            await new Promise((done) => setTimeout(done, 6 * WAIT_MS));
        }
        const field = await until(input);
        if (!field) {
            throw new Error("PNG Info takes no file: remove the picture that is there");
        }
        const files = new DataTransfer();
        files.items.add(new File([blob], picture.name, {type: blob.type}));
        field.files = files.files;
        field.dispatchEvent(new Event("change", {bubbles: true}));
    };

    // --- the view --------------------------------------------------------------------------------------------------

    function row(name, text) {
        return text === "" || text === null || text === undefined
            ? []
            : [lib.make("dt", {textContent: name}), lib.make("dd", {textContent: text})];
    }

    function described(picture) {
        const scores = Object.entries(picture.scores).flatMap(([name, score]) => row(name, score.toFixed(4)));
        return lib.make(
            "dl",
            {},
            ...row("prompt", picture.prompt),
            ...row("negative", picture.negative),
            ...scores,
            ...row("", picture.percentile),
            ...row("checkpoint", picture.checkpoint),
            ...row("LoRA", picture.loras),
            ...row("sampler", picture.sampler),
            ...row("steps", picture.steps),
            ...row("CFG", picture.cfg),
            ...row("seed", picture.seed),
            ...row("size", `${picture.width} × ${picture.height}`),
            ...row("made", new Date(1000 * picture.time).toLocaleString()),
            ...row("file", `${picture.folder}/${picture.name}`),
            ...row("mark", [picture.mark, picture.stars ? "★".repeat(picture.stars) : ""].filter(Boolean).join(" ")),
        );
    }

    async function draw() {
        const mine = ++turn;
        const id = lib.grid.ids[index];
        lib.choosing.go(index);
        if (!lib.grid.known.get(id)) {
            await lib.grid.learn([id]);
        }
        const picture = lib.grid.known.get(id);
        const img = lib.make("img", {alt: picture ? picture.name : ""});
        await lib.load(img, `/image/${id}`);
        if (mine !== turn || !box) {
            return; // gone on meanwhile
        }
        box.querySelector(".imagereward-library-one").replaceChildren(img);
        box.querySelector(".imagereward-library-about").replaceChildren(...(picture ? [described(picture)] : []));
        box.querySelector(".imagereward-library-count").textContent = `${index + 1} of ${lib.grid.ids.length}`;
        box.dataset.ready = id;
    }

    const go = (step) =>
        lib.guarded(async () => {
            const to = index + step;
            if (to >= 0 && to < lib.grid.ids.length) {
                index = to;
                await draw();
            }
        })();

    const change = (what) =>
        lib.guarded(async () => {
            const id = lib.grid.ids[index];
            if (what.mark !== undefined) {
                await lib.actions.toggleMark(what.mark);
            } else {
                await lib.actions.judge([id], what);
            }
            const picture = lib.grid.known.get(id);
            box.querySelector(".imagereward-library-about").replaceChildren(...(picture ? [described(picture)] : []));
        })();

    function keys(event) {
        const star = "012345".indexOf(event.key);
        const action =
            {
                ArrowLeft: () => go(-1),
                ArrowRight: () => go(1),
                Escape: close,
                k: () => change({mark: "keep"}),
                x: () => change({mark: "reject"}),
            }[event.key] || (event.key.length === 1 && star >= 0 ? () => change({stars: star}) : null);
        if (action && !event.ctrlKey && !event.metaKey && !event.altKey) {
            event.preventDefault();
            event.stopPropagation();
            action();
        }
    }

    view.open = function (at) {
        close();
        index = at;
        const id = () => lib.grid.ids[index];
        box = lib.named(
            "div",
            "duel imagereward-library-view",
            {},
            lib.named("div", "view", {}, lib.named("div", "one"), lib.named("div", "about")),
            lib.named(
                "div",
                "bar",
                {},
                lib.named("span", "count"),
                lib.button("←", () => go(-1), "the one before"),
                lib.button("→", () => go(1), "the next"),
                lib.button("Keep K", () => change({mark: "keep"})),
                lib.button("Reject X", () => change({mark: "reject"})),
                lib.button("Send to txt2img", () => view.toTxt2img(id())),
                lib.button("Open in PNG Info", () => view.toPngInfo(id())),
                lib.button("Close Esc", close),
                lib.named("span", "say"),
            ),
        );
        lib.root.append(box);
        document.addEventListener("keydown", keys, true);
        lib.guarded(draw)();
    };

    function close() {
        if (box) {
            document.removeEventListener("keydown", keys, true);
            box.remove();
            box = null;
            lib.part("grid").focus({preventScroll: true});
        }
    }
})();
