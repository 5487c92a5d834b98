// The ReFL tab: builds the page, then polls the state of the runs and draws it. Its form and its curves have files of their own.
//
// Everything is written with textContent and DOM calls, never innerHTML: names and messages come from files.
(function () {
    "use strict";

    const POLL_MS = 1500;
    const refl = window.imagerewardRefl = window.imagerewardRefl || {};
    let root, current = null, seen = 0, events = [], timer = null, shownSamples = {}, lastRuns = "", unreachable = false;

    function make(tag, props, ...children) {
        const node = Object.assign(document.createElement(tag), props || {});
        node.append(...children);
        return node;
    }
    refl.make = make;

    async function ask(path, method, body) {
        const headers = {"X-ImageReward-Token": root.dataset.token};
        if (body !== undefined) {
            headers["Content-Type"] = "application/json";
        }
        const answer = await fetch(root.dataset.prefix.replace(/^\//, "") + path, {
            method: method || "GET", headers, body: body === undefined ? undefined : JSON.stringify(body),
        });
        if (!answer.ok) {
            let detail = answer.statusText;
            try {
                detail = (await answer.json()).detail || detail;
            } catch (error) { /* not JSON: the status line says enough */ }
            throw Object.assign(new Error(typeof detail === "string" ? detail : JSON.stringify(detail)), {status: answer.status});
        }
        return answer;
    }

    const json = async (...args) => (await ask(...args)).json();

    function say(text, isError) {
        const line = root.querySelector(".imagereward-refl-say");
        line.textContent = text;
        line.classList.toggle("imagereward-refl-error", !!isError);
    }

    // Run an action of a button; whatever fails is shown beside it.
    const guarded = (action) => async () => {
        try {
            await action();
        } catch (error) {
            say(error.message, true);
        }
    };

    // --- libraries ----------------------------------------------------------------------------------------------

    function showLibraries(status) {
        const box = root.querySelector(".imagereward-refl-libraries");
        box.replaceChildren();
        if (!status.missing.length) {
            return;
        }
        box.append(make("p", {textContent: status.installing ? "Installing the training libraries …" : "Training needs libraries this WebUI lacks: " + status.missing.join(", ") + ". They go into a folder of their own."}));
        if (status.error) {
            box.append(make("pre", {textContent: status.error}));
        }
        if (!status.installing) {
            box.append(button("Install training libraries", async () => showLibraries(await json("/libraries", "POST"))));
        } else {
            setTimeout(guarded(async () => showLibraries((await json("/options")).libraries)), 3000);
        }
    }

    function button(text, action) {
        const node = make("button", {type: "button", textContent: text, className: "lg secondary gradio-button"});
        node.addEventListener("click", guarded(action));
        return node;
    }

    // --- the runs -----------------------------------------------------------------------------------------------

    function showRuns(runs) {
        const text = JSON.stringify([runs, current]);
        if (text === lastRuns) {
            return;
        }
        lastRuns = text;
        const list = root.querySelector(".imagereward-refl-runs");
        list.replaceChildren(...runs.map((run) => {
            const row = make("div", {className: run.id === current ? "selected" : ""});
            const name = make("a", {href: "#", textContent: `${run.id} · ${run.state} · ${run.step} of ${run.max_steps}`});
            name.addEventListener("click", (event) => {
                event.preventDefault();
                select(run.id);
            });
            row.append(name, button("Clone", async () => refl.fill((await json(`/runs/${run.id}/settings`)).settings)));
            if (!run.active) {
                row.append(button("Delete", async () => {
                    if (confirm(`Delete the files of run ${run.id}? The exported model stays.`)) {
                        await ask(`/runs/${run.id}`, "DELETE");
                        current = current === run.id ? null : current;
                        await poll();
                    }
                }));
            }
            return row;
        }));
    }

    function select(id) {
        current = id;
        seen = 0;
        events = [];
        shownSamples = {};
        root.querySelector(".imagereward-refl-wall").replaceChildren();
        poll();
    }

    const duration = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : seconds < 5400 ? `${Math.ceil(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`);

    function showRun(run) {
        const left = run.active && run.state !== refl.schema.paused && run.seconds_left ? `, about ${duration(run.seconds_left)} left` : "";
        Object.assign(root.querySelector(".imagereward-refl-progress"), {max: run.max_steps || 1, value: run.step});
        root.querySelector(".imagereward-refl-state").textContent = `${run.checkpoint}: ${run.state}, update ${run.step} of ${run.max_steps}${left}`;
        const message = root.querySelector(".imagereward-refl-message");
        const torn = events.filter((event) => event.type === refl.schema.events.damaged).length;
        const damage = torn ? `${torn} ${torn === 1 ? "line" : "lines"} of this run's event log cannot be read and ${torn === 1 ? "is" : "are"} left out.` : "";
        message.textContent = [run.message, run.hint, damage].filter(Boolean).join(" ");
        message.classList.toggle("imagereward-refl-error", refl.schema.failed.includes(run.state));
        for (const node of root.querySelectorAll("[data-command]")) {
            node.disabled = !run.commands.includes(node.dataset.command);
        }
        showResult(run);
        root.querySelector(".imagereward-refl-log").textContent = run.log;
    }

    function showResult(run) {
        const box = root.querySelector(".imagereward-refl-result");
        const key = run.id + run.state + run.result;
        if (box.dataset.key === key) {
            return;
        }
        box.dataset.key = key;
        box.replaceChildren();
        if (!run.result || !refl.schema.ended.includes(run.state) && run.state !== refl.schema.paused) { // the stop rule pauses with the best so far exported
            return;
        }
        const name = run.result.split(/[\\/]/).pop().replace(/\.safetensors$/, "");
        box.append(make("p", {textContent: `Wrote ${run.result}`}));
        box.append(button("Use in txt2img", async () => appendToPrompt(`<lora:${name}:1>`)));
        box.append(button("Prepare X/Y/Z plot: strength", async () => {
            const strengths = [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2].map((value) => `<lora:${name}:${value}>`);
            appendToPrompt(strengths[0]);
            const copied = await copy(strengths.join(","));
            say(`In txt2img choose the script X/Y/Z plot, X type Prompt S/R, and ${copied ? "paste the values: they are in the clipboard." : "copy these values: " + strengths.join(",")}`);
        }));
        box.append(button("Report", async () => {
            const page = await (await ask(`/runs/${run.id}/report`)).blob();
            window.open(URL.createObjectURL(page), "_blank");
        }));
    }

    // Browsers give the clipboard to https and localhost only; a WebUI on the local network has neither.
    async function copy(text) {
        try {
            await navigator.clipboard.writeText(text);
            return true;
        } catch (error) {
            return false;
        }
    }

    function appendToPrompt(text) {
        const area = document.querySelector("#txt2img_prompt textarea");
        area.value = `${area.value} ${text}`.trim();
        area.dispatchEvent(new Event("input", {bubbles: true}));
        const tabs = Array.from(document.querySelectorAll("#tabs > .tab-nav button, #tabs button[role=tab]"));
        const tab = tabs.find((node) => node.textContent.trim().toLowerCase() === "txt2img"); // Forge writes it with a capital
        if (tab) {
            tab.click();
        }
    }

    const sheetTitle = (name) => (name === "step-000000.png" ? "before training" : `after ${Number(name.slice(5, 11))} updates`);

    async function showSamples() {
        const wall = root.querySelector(".imagereward-refl-wall");
        const names = [...new Set(events.filter((event) => event.type === refl.schema.events.samples && event.path).map((event) => String(event.path).split("/").pop()))];
        const wanted = names.length > 4 ? [names[0], ...names.slice(-3)] : names;
        for (const name of wanted) {
            if (!shownSamples[name]) {
                shownSamples[name] = true;
                const picture = await (await ask(`/runs/${current}/samples/${name}`)).blob();
                wall.append(make("figure", {}, make("img", {src: URL.createObjectURL(picture), alt: name}), make("figcaption", {textContent: sheetTitle(name)})));
            }
        }
        while (wall.children.length > 4) {
            wall.children[1].remove();
        }
    }

    // --- polling ------------------------------------------------------------------------------------------------

    async function poll() {
        clearTimeout(timer);
        try {
            if (root.offsetParent !== null) { // the tab is in front
                const {runs} = await json("/runs");
                if (unreachable) {
                    unreachable = false;
                    say("");
                }
                current = current || (runs.find((run) => run.active) || runs[0] || {}).id || null;
                showRuns(runs);
                root.querySelector(".imagereward-refl-run").hidden = !current;
                if (current) {
                    const asked = current;
                    const run = await json(`/runs/${asked}?after=${seen}`);
                    if (asked === current) {
                        events.push(...run.events);
                        seen = run.next;
                        showRun(run);
                        root.querySelector(".imagereward-refl-curves").replaceChildren(...refl.curves(events));
                        await showSamples();
                    }
                }
            }
        } catch (error) {
            unreachable = true;
            // 401: it answers, and the page is of before its restart; the answer says what to do
            say(error.status === 401 ? error.message : `The WebUI does not answer (${error.message}); the run goes on.`, true);
        }
        timer = setTimeout(poll, POLL_MS);
    }

    function build(options) {
        const buttons = make("div", {className: "imagereward-refl-buttons"});
        const keep = make("input", {type: "checkbox", id: "imagereward-refl-keep"});
        buttons.append(
            button("Estimate memory", async () => {
                say("Computing …");
                const found = await json("/estimate", "POST", {settings: refl.values()});
                say(`${found.text[0].toUpperCase()}${found.text.slice(1)}; ${found.seconds ? `about ${duration(found.seconds)} for all updates, by an earlier run like this` : "the time is known once the first update is done"}.${found.fits === false ? " It does not fit." : ""}`, found.fits === false);
            }),
            button("Start", async () => {
                const {id} = await json("/runs", "POST", {settings: refl.values(), keep_going: keep.checked});
                say(`Run ${id} is in the list below.`);
                select(id);
            }),
            make("label", {}, keep, " go on when the WebUI ends"),
        );
        const controls = make("div", {className: "imagereward-refl-buttons"});
        const labels = {sample: "Sample now", save: "Save now", stop: "Stop and save", stop_now: "Stop now"};
        for (const name of refl.schema.commands) {
            const node = button(labels[name] || name[0].toUpperCase() + name.slice(1), async () => {
                await json(`/runs/${current}/command`, "POST", {command: name});
                await poll();
            });
            node.dataset.command = name;
            controls.append(node);
        }
        const box = (name, tag) => make(tag || "div", {className: "imagereward-refl-" + name});
        const details = make("details", {}, make("summary", {textContent: "Log"}), box("log", "pre"));
        const note = make("small", {textContent: "Held-out prompts, a row each; a column is a seed, the same at every evaluation. Good: the reward rises while diversity, judges and pictures hold up."});
        const run = box("run");
        run.append(box("state", "h3"), box("progress", "progress"), box("message", "p"), controls, box("result"), box("curves"), note, box("wall"), details);
        const read = async (name, base64) => (await json("/prompts", "POST", {name, base64})).prompts;
        const form = refl.buildForm(options, read, (error) => say(error.message, true));
        root.replaceChildren(box("libraries"), form, buttons, box("say", "p"), make("h3", {textContent: "Runs"}), box("runs"), run);
        showLibraries(options.libraries);
    }

    async function start() {
        const found = document.getElementById("imagereward-refl");
        if (!found || found === root) {
            return;
        }
        root = found;
        try {
            refl.schema = await json("/schema"); // the words of the run protocol
            build(await json("/options"));
            poll();
        } catch (error) {
            root.textContent = `The ReFL tab could not be built: ${error.message}`;
            root = null;
        }
    }

    if (typeof onUiLoaded === "function") {
        onUiLoaded(start);
    } else {
        document.addEventListener("DOMContentLoaded", start);
    }
})();
