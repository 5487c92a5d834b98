// The library tab: a grid of pictures by score, duels by keyboard, and the taste that is learnt from them.
//
// Everything is written with textContent and DOM calls, never innerHTML: names and prompts come from files.
(function () {
    "use strict";

    const POLL_MS = 1000, PLACE = "imagereward-library";
    let root, state = null, shown = null, offset = 0, polling = false, duel = null;

    function make(tag, props, ...children) {
        const node = Object.assign(document.createElement(tag), props || {});
        node.append(...children);
        return node;
    }

    const part = (name) => root.querySelector(`.${PLACE}-${name}`);

    async function ask(path, body) {
        const headers = {"X-ImageReward-Token": root.dataset.token};
        if (body !== undefined) {
            headers["Content-Type"] = "application/json";
        }
        const answer = await fetch(root.dataset.prefix.replace(/^\//, "") + path, {
            method: body === undefined ? "GET" : "POST", headers, body: body === undefined ? undefined : JSON.stringify(body),
        });
        if (!answer.ok) {
            let detail = answer.statusText;
            try {
                detail = (await answer.json()).detail || detail;
            } catch (error) { /* not JSON: the status line says enough */ }
            throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
        }
        return answer;
    }

    const json = async (...args) => (await ask(...args)).json();

    function say(text, isError) {
        for (const line of root.querySelectorAll(`.${PLACE}-say`)) {
            line.textContent = text;
            line.classList.toggle(`${PLACE}-error`, !!isError);
        }
    }

    const guarded = (action) => async (event) => {
        try {
            await action(event);
        } catch (error) {
            say(error.message, true);
        }
    };

    function button(text, action, title) {
        const node = make("button", {type: "button", textContent: text, title: title || ""});
        node.addEventListener("click", guarded(action));
        return node;
    }

    // A picture needs the page's token, which an address in src cannot carry.
    async function load(img, path) {
        const blob = await (await ask(path)).blob();
        const address = URL.createObjectURL(blob);
        img.onload = () => URL.revokeObjectURL(address);
        img.src = address;
    }

    const near = new IntersectionObserver((entries) => {
        for (const entry of entries.filter((one) => one.isIntersecting)) {
            near.unobserve(entry.target);
            load(entry.target, `/thumbnail/${entry.target.dataset.id}`).catch((error) => {
                entry.target.alt = error.message;
            });
        }
    }, {rootMargin: "400px"});

    // --- the grid -------------------------------------------------------------------------------------------------

    function card(picture) {
        const img = make("img", {alt: picture.name, title: picture.prompt});
        img.dataset.id = picture.id;
        near.observe(img);
        const caption = make("figcaption");
        const node = make("figure", {}, img, caption);
        node.dataset.id = picture.id;

        function draw() {
            node.className = picture.mark || "";
            const score = picture.score === null ? "" : picture.score.toFixed(3);
            const set = (change) => async () => {
                Object.assign(picture, await json("/mark", {id: picture.id, mark: picture.mark, stars: picture.stars, ...change}), {score: picture.score, percentile: picture.percentile});
                draw();
            };
            const toggles = [["keep", "✓"], ["reject", "✗"]].map(([mark, sign]) => {
                const toggle = button(sign, set({mark: picture.mark === mark ? null : mark}), mark);
                toggle.setAttribute("aria-pressed", picture.mark === mark);
                return toggle;
            });
            const stars = make("select", {title: "stars"}, ...["☆", "1", "2", "3", "4", "5"].map((text, index) => make("option", {value: index || "", textContent: index ? "★".repeat(index) : text})));
            stars.value = picture.stars || "";
            stars.addEventListener("change", (event) => guarded(set({stars: Number(event.target.value) || null}))());
            caption.replaceChildren(make("span", {textContent: score, title: picture.percentile}), ...toggles, stars);
        }
        draw();
        return node;
    }

    async function show(more) {
        offset = more ? offset : 0;
        const query = new URLSearchParams({by: part("by").value, where: part("where").value, offset});
        const found = await json(`/pictures?${query}`);
        const grid = part("grid");
        if (!more) {
            grid.replaceChildren();
        }
        grid.append(...found.pictures.map(card));
        offset += found.pictures.length;
        part("more").hidden = !found.more;
        say(offset ? "" : "no picture answers this question");
    }

    // --- duels ----------------------------------------------------------------------------------------------------

    // Whether the pair that is seen may be decided.
    function ready(is) {
        duel.box.dataset.ready = is ? "1" : "";
    }

    async function nextPair() {
        const query = new URLSearchParams({taste: duel.taste, where: part("where").value});
        const {pair} = await json(`/pair?${query}`);
        if (!pair) {
            endDuel("no pair is left: a duel needs two pictures of one prompt that you have not compared yet");
            return;
        }
        duel.pair = pair;
        const images = pair.map((picture) => make("img", {alt: picture.name}));
        await Promise.all(images.map((img, index) => load(img, `/image/${pair[index].id}`)));
        images.forEach((img, index) => img.addEventListener("click", () => decide(index, "win")));
        duel.box.querySelector(`.${PLACE}-two`).replaceChildren(...images);
        duel.box.querySelector(`.${PLACE}-prompt`).textContent = pair[0].prompt;
        ready(true);
    }

    const decide = (index, verdict) => guarded(async () => {
        if (!duel || !duel.box.dataset.ready) {
            return; // the next pair is not drawn yet: a key that is held down must not decide unseen pictures
        }
        ready(false);
        const [winner, loser] = [duel.pair[index].id, duel.pair[1 - index].id];
        const kept = await json("/duel", {winner, loser, verdict, taste: duel.taste});
        duel.kept.push(kept.id);
        count(kept.duels);
        await nextPair();
    })();

    const takeBack = guarded(async () => {
        const id = duel.kept.pop();
        if (id === undefined) {
            say("nothing to take back");
            return;
        }
        await json("/undo", {id});
        await refresh();
        say("taken back");
    });

    function count(duels) {
        duel.box.querySelector(`.${PLACE}-count`).textContent = `${duels} duels of ${duel.taste}`;
    }

    function keys(event) {
        const actions = {
            ArrowLeft: () => decide(0, "win"), ArrowRight: () => decide(1, "win"), ArrowUp: () => decide(0, "both"),
            ArrowDown: () => decide(0, "neither"), Backspace: takeBack, Escape: () => endDuel(""),
        };
        if (actions[event.key] && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey) {
            event.preventDefault();
            event.stopPropagation();
            actions[event.key]();
        }
    }

    async function beginDuel() {
        const taste = part("taste").value.trim();
        const text = (name) => make("span", {className: `${PLACE}-${name}`});
        const bar = make("div", {className: `${PLACE}-bar`}, text("count"),
            button("← this one", () => decide(0, "win")), button("both ↑", () => decide(0, "both")),
            button("neither ↓", () => decide(0, "neither")), button("this one →", () => decide(1, "win")),
            button("Undo ⌫", takeBack), button("Done Esc", () => endDuel("")), text("say"));
        const box = make("div", {className: `${PLACE}-duel`}, make("p", {className: `${PLACE}-prompt`}), make("div", {className: `${PLACE}-two`}), bar);
        duel = {taste, box, kept: [], pair: null};
        root.append(box);
        document.addEventListener("keydown", keys, true);
        const known = state.tastes.find((one) => one.name === taste);
        count(known ? known.duels : 0);
        await guarded(nextPair)();
    }

    function endDuel(text) {
        document.removeEventListener("keydown", keys, true);
        duel.box.remove();
        duel = null;
        guarded(refresh)().then(() => text && say(text));
    }

    // --- the taste ------------------------------------------------------------------------------------------------

    const percent = (share) => `${(100 * share).toFixed(1)} %`;

    // Shown before and after each round of duels, whatever it says.
    function verdict() {
        const taste = state.tastes.find((one) => one.name === part("taste").value.trim());
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
            lines.push(`foretells ${percent(taste.accuracy)} (${percent(taste.interval[0])} to ${percent(taste.interval[1])}) of duels it was not shown, ${taste.base.name} alone ${percent(taste.scorer_accuracy)}`);
        }
        if (taste.fitted && taste.fitted !== taste.duels) {
            lines.push(`learnt from ${taste.fitted} of them`);
        }
        return lines.join(" · ");
    }

    function options(select, names, first) {
        const chosen = select.value;
        select.replaceChildren(...first, ...names.map((name) => make("option", {value: name, textContent: name})));
        if ([...select.options].some((option) => option.value === chosen)) {
            select.value = chosen;
        }
    }

    async function refresh() {
        state = await json("/state");
        part("place").textContent = state.there ? `${state.pictures} pictures in ${state.place}` : `No library yet: it will be kept in ${state.place}, on this machine only.`;
        options(part("by"), state.scorers, [make("option", {value: "", textContent: "newest first"})]);
        options(part("base"), state.loadable.filter((name) => !state.tastes.some((taste) => taste.name === name)), []);
        part("state").textContent = verdict();
        const {what, running, done, total, error, said} = state.work;
        part("work").textContent = running ? `${what} … ${total ? `${done} of ${total}` : ""}` : said;
        if (error) {
            say(error, true);
        }
        for (const node of root.querySelectorAll("[data-work]")) {
            node.disabled = running;
        }
        if (running && !polling) {
            polling = true;
            setTimeout(async () => {
                polling = false;
                await guarded(refresh)();
                if (!state.work.running && what === "reading pictures") {
                    await guarded(() => show(false))();
                }
            }, POLL_MS);
        }
    }

    function working(text, action) {
        const node = button(text, async () => {
            await action();
            await refresh();
        });
        node.dataset.work = "1";
        return node;
    }

    function build() {
        const named = (tag, name, props) => make(tag, {className: `${PLACE}-${name}`, ...props});
        const taste = named("input", "taste", {value: "my-taste", title: "name of the taste"});
        const where = named("input", "where", {placeholder: 'prompt~"red fox" checkpoint=juggernautXL stars>=3'});
        const more = button("More", () => show(true));
        more.className = `${PLACE}-more`;
        more.hidden = true;
        taste.addEventListener("change", guarded(refresh));
        where.addEventListener("keydown", (event) => event.key === "Enter" && guarded(() => show(false))());
        const by = named("select", "by");
        by.addEventListener("change", guarded(() => show(false)));
        root.replaceChildren(
            make("div", {className: `${PLACE}-bar`}, named("span", "place"), working("Read my pictures", () => json("/read", {})), named("span", "work")),
            make("div", {className: `${PLACE}-bar`}, "Taste", taste, "learnt on", named("select", "base"), button("Duel", beginDuel),
                working("Learn", () => json("/fit", {taste: taste.value.trim(), scorer: part("base").value}))),
            named("p", "state"),
            make("div", {className: `${PLACE}-bar`}, by, where, button("Show", () => show(false))),
            named("p", "say"),
            named("div", "grid"),
            more,
        );
    }

    async function start() {
        const found = document.getElementById(PLACE);
        if (!found || found === root) {
            return;
        }
        root = found;
        try {
            build();
            await refresh();
            if (state.there) {
                await show(false);
            }
        } catch (error) {
            root.textContent = `The library tab could not be built: ${error.message}`;
            root = null;
        }
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(start);
    } else {
        document.addEventListener("DOMContentLoaded", start);
    }
})();
