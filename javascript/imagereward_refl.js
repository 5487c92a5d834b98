// The ReFL tab: builds its form from the server's table of fields, then polls the state of the runs and draws it.
//
// Everything is written with textContent and DOM calls, never innerHTML: names and messages come from files.
(function () {
    "use strict";

    const POLL_MS = 1500;
    const ENDED = ["finished", "stopped", "stop_rule", "failed", "died", "cancelled"];
    const COLOURS = ["#2a78d6", "#d6612a", "#2a9d5c", "#8a4fbf", "#b58900"];
    let root, fields = {}, current = null, seen = 0, events = [], timer = null, shownSamples = {}, lastRuns = "";

    function make(tag, props, ...children) {
        const node = Object.assign(document.createElement(tag), props || {});
        node.append(...children);
        return node;
    }

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
            throw new Error(typeof detail === "string" ? detail : JSON.stringify(detail));
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

    // --- the form -----------------------------------------------------------------------------------------------

    function widget(field, options) {
        const id = "imagereward-refl-" + field.name;
        if (field.kind === "bool") {
            return make("input", {type: "checkbox", id, checked: field.default});
        }
        if (field.kind === "lines") {
            return make("textarea", {id, rows: 6, value: field.default});
        }
        if (field.kind === "choice") {
            const lists = {checkpoint: options.checkpoints, reward: options.rewards, judge: ["", ...options.rewards]};
            const select = make("select", {id});
            for (const choice of lists[field.name] || field.choices) {
                select.append(make("option", {value: choice, textContent: choice || "none"}));
            }
            const selected = options.checkpoints.find((title) => title === options.selected);
            select.value = field.name === "checkpoint" ? selected || options.checkpoints[0] || "" : field.default;
            return select;
        }
        const value = field.name === "guidance" && options.guidance ? options.guidance : field.default;
        const type = field.kind === "text" ? "text" : "number";
        return make("input", {type, id, value, step: field.kind === "float" ? "any" : "1"});
    }

    function buildForm(options) {
        const form = make("div", {className: "imagereward-refl-form"});
        for (const field of options.fields) {
            const input = widget(field, options);
            fields[field.name] = {field, input};
            const label = make("label", {title: field.help, className: "imagereward-refl-" + field.kind}, make("span", {textContent: field.label}), input);
            if (field.help) {
                label.append(make("small", {textContent: field.help}));
            }
            form.append(label);
        }
        const file = make("input", {type: "file", accept: ".txt,.json,.jsonl,.csv"});
        file.addEventListener("change", guarded(async () => {
            fields.prompts.input.value = promptsInFile(file.files[0].name, await file.files[0].text());
        }));
        fields.prompts.input.after(file);
        return form;
    }

    // Prompts in a JSON, JSONL, CSV or text file, one per line.
    function promptsInFile(name, text) {
        const textOf = (item) => (typeof item === "string" ? item : item.text || item.prompt || "");
        if (/\.json$/i.test(name)) {
            return JSON.parse(text).map(textOf).join("\n");
        }
        const lines = text.split(/\r?\n/).filter((line) => line.trim());
        if (/\.jsonl$/i.test(name)) {
            return lines.map((line) => textOf(JSON.parse(line))).join("\n");
        }
        return lines.join("\n");
    }

    function values() {
        const result = {};
        for (const [name, {field, input}] of Object.entries(fields)) {
            result[name] = field.kind === "bool" ? input.checked : input.value;
        }
        return result;
    }

    function fill(settings) {
        for (const [name, value] of Object.entries(settings)) {
            if (!fields[name] || value === null || typeof value === "object" && !Array.isArray(value)) {
                continue;
            }
            const {field, input} = fields[name];
            if (field.kind === "bool") {
                input.checked = !!value;
            } else if (field.kind === "choice") {
                const wanted = String(Array.isArray(value) ? value[0] ?? "" : value);
                const option = Array.from(input.options).find((item) => item.value === wanted || wanted.endsWith(item.value.replace(/ \[.*\]$/, "")));
                input.value = option ? option.value : input.value;
            } else {
                input.value = Array.isArray(value) ? value.join("\n") : value;
            }
        }
    }

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
            row.append(name, button("Clone", async () => fill((await json(`/runs/${run.id}/settings`)).settings)));
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
        const left = run.active && run.state !== "paused" && run.seconds_left ? `, about ${duration(run.seconds_left)} left` : "";
        Object.assign(root.querySelector(".imagereward-refl-progress"), {max: run.max_steps || 1, value: run.step});
        root.querySelector(".imagereward-refl-state").textContent = `${run.checkpoint}: ${run.state}, update ${run.step} of ${run.max_steps}${left}`;
        const message = root.querySelector(".imagereward-refl-message");
        message.textContent = [run.message, run.hint].filter(Boolean).join(" ");
        message.classList.toggle("imagereward-refl-error", ["failed", "died"].includes(run.state));
        const allowed = {pause: run.active && run.state !== "paused", resume: run.state === "paused" || (run.resumable && ["stopped", "stop_rule", "failed", "died"].includes(run.state)),
            sample: run.active, save: run.active, stop: run.active || run.state === "queued", stop_now: run.active};
        for (const node of root.querySelectorAll("[data-command]")) {
            node.disabled = !allowed[node.dataset.command];
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
        if (!run.result || !ENDED.includes(run.state) && run.state !== "paused") { // the stop rule pauses with the best so far exported
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
        const tab = tabs.find((node) => node.textContent.trim() === "txt2img");
        if (tab) {
            tab.click();
        }
    }

    // What a killed process had done after its last saved state is told again by the resumed one.
    function withoutLostSteps(all) {
        let kept = [];
        for (const event of all) {
            if (event.type === "resumed") {
                kept = kept.filter((old) => (old.step || 0) <= event.step);
            }
            kept.push(event);
        }
        return kept;
    }

    function showCurves() {
        const clean = withoutLostSteps(events);
        const steps = clean.filter((event) => event.type === "step"), marks = clean.filter((event) => event.type === "evaluation");
        const series = [["reward of training samples", steps.map((e) => [e.step, e.reward])], ["held-out reward", marks.map((e) => [e.step, e.reward])]];
        for (const name of Object.keys((marks[0] || {}).judges || {})) {
            series.push(["judge: " + name, marks.map((e) => [e.step, e.judges[name]])]);
        }
        series.push(["seed diversity", marks.map((e) => [e.step, e.diversity])], ["denoising error", marks.map((e) => [e.step, e.eps_mse])]);
        root.querySelector(".imagereward-refl-curves").replaceChildren(...series.filter(([, points]) => points.length).map(([title, points], index) => curve(title, points, COLOURS[index % COLOURS.length])));
    }

    function curve(title, points, colour) {
        points = points.filter(([, y]) => typeof y === "number");
        if (!points.length) {
            return make("figure");
        }
        const width = 260, height = 120, xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
        const low = Math.min(...ys), high = Math.max(...ys), left = Math.min(...xs), wide = Math.max(...xs) - left || 1, tall = high - low || 1;
        const across = (x) => 6 + (x - left) / wide * (width - 12), down = (y) => high === low ? height / 2 : height - 20 - (y - low) / tall * (height - 40);
        const svg = part("svg", {viewBox: `0 0 ${width} ${height}`});
        // where it started: what is above and below is what training changed
        svg.append(part("line", {x1: 6, x2: width - 6, y1: down(ys[0]), y2: down(ys[0]), stroke: "currentColor", "stroke-opacity": 0.3, "stroke-dasharray": "3 3"}));
        svg.append(part("polyline", {points: points.map(([x, y]) => `${across(x)},${down(y)}`).join(" "), fill: "none", stroke: colour, "stroke-width": 2}));
        svg.append(part("circle", {cx: across(xs[xs.length - 1]), cy: down(ys[ys.length - 1]), r: 3, fill: colour}));
        const words = {fill: "currentColor", "font-size": 10};
        if (high !== low) {
            svg.append(part("text", {x: 6, y: 11, ...words}, high.toPrecision(3)), part("text", {x: 6, y: height - 4, ...words}, low.toPrecision(3)));
        }
        svg.append(part("text", {x: width - 6, y: height - 4, "text-anchor": "end", ...words}, `update ${xs[xs.length - 1]}`));
        return make("figure", {}, svg, make("figcaption", {textContent: `${title}: ${ys[0].toPrecision(3)} → ${ys[ys.length - 1].toPrecision(3)}`}));
    }

    function part(tag, attributes, text) {
        const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
        for (const [name, value] of Object.entries(attributes)) {
            node.setAttribute(name, value);
        }
        node.textContent = text || "";
        return node;
    }

    const sheetTitle = (name) => (name === "step-000000.png" ? "before training" : `after ${Number(name.slice(5, 11))} updates`);

    async function showSamples() {
        const wall = root.querySelector(".imagereward-refl-wall");
        const names = [...new Set(events.filter((event) => event.type === "samples").map((event) => event.path.split("/").pop()))];
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
                        showCurves();
                        await showSamples();
                    }
                }
            }
        } catch (error) {
            say(`The WebUI does not answer (${error.message}); the run goes on.`, true);
        }
        timer = setTimeout(poll, POLL_MS);
    }

    function build(options) {
        const buttons = make("div", {className: "imagereward-refl-buttons"});
        const keep = make("input", {type: "checkbox", id: "imagereward-refl-keep"});
        buttons.append(
            button("Estimate memory", async () => {
                say("Computing …");
                const found = await json("/estimate", "POST", {settings: values()});
                say(`${found.text[0].toUpperCase()}${found.text.slice(1)}; ${found.seconds ? `about ${duration(found.seconds)} for all updates, by an earlier run like this` : "the time is known once the first update is done"}.${found.fits === false ? " It does not fit." : ""}`, found.fits === false);
            }),
            button("Start", async () => {
                const {id} = await json("/runs", "POST", {settings: values(), keep_going: keep.checked});
                say(`Run ${id} is queued.`);
                select(id);
            }),
            make("label", {}, keep, " go on when the WebUI ends"),
        );
        const controls = make("div", {className: "imagereward-refl-buttons"});
        for (const [name, text] of [["pause", "Pause"], ["resume", "Resume"], ["sample", "Sample now"], ["save", "Save now"], ["stop", "Stop and save"], ["stop_now", "Stop now"]]) {
            const node = button(text, async () => {
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
        root.replaceChildren(box("libraries"), buildForm(options), buttons, box("say", "p"), make("h3", {textContent: "Runs"}), box("runs"), run);
        showLibraries(options.libraries);
    }

    async function start() {
        const found = document.getElementById("imagereward-refl");
        if (!found || found === root) {
            return;
        }
        root = found;
        try {
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
