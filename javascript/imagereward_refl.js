// The ReFL tab is made of gradio components; this is its heartbeat, and what Python cannot do in a page.
(function () {
    "use strict";

    const ID = "#imagereward_refl_",
        BUSY_MS = 1000,
        IDLE_MS = 4000;
    const find = (name) => document.querySelector(ID + name);
    let asking = false,
        version = null,
        asked = 0,
        settling = 0;

    const ask = async (path, body) => {
        const {prefix, token} = find("boot [data-boot]").dataset;
        const headers = {"X-ImageReward-Token": token, "Content-Type": "application/json"};
        const sent = body ? {method: "POST", headers, body: JSON.stringify(body)} : {headers};
        return fetch(prefix.replace(/^\//, "") + path, sent);
    };

    // gradio calls functions by number. On a page that was left open over a Reload UI our numbers belong to other
    // buttons, the host's Generate among them: nothing is clicked before the server has said that this page is its own.
    async function beat() {
        const panel = find("panel"),
            mark = find("boot [data-boot]");
        if (!panel || !mark || panel.offsetParent === null || document.hidden) {
            version = null; // in front again: ask anew
            return;
        }
        hang();
        const wait = version === null || find("status [data-live='1']") ? BUSY_MS : IDLE_MS;
        if (asking || mark.dataset.stale || Date.now() - asked < wait - BUSY_MS / 2) {
            return;
        }
        asking = true;
        asked = Date.now();
        try {
            const answer = await ask("/state");
            const state = answer.ok ? await answer.json() : {};
            if (answer.status === 401 || (answer.ok && state.boot !== mark.dataset.boot)) {
                mark.dataset.stale = "1";
                mark.textContent = "The WebUI was reloaded since this page was opened: reload the page. Runs go on.";
                panel.inert = true;
            } else if (answer.ok) {
                mark.textContent = "";
                // an answer that was under way may still come after this one and show what was before: look twice more
                settling = state.version !== version ? 2 : settling - 1;
                version = state.version;
                if (settling >= 0) {
                    find("tick").click();
                }
            }
        } catch (error) {
            version = null;
            mark.textContent = "The WebUI does not answer; runs go on.";
        } finally {
            asking = false;
        }
    }

    // The LoRA stands in txt2img's prompt once, whatever stood there of it.
    function prompt(name, strength) {
        const area = document.querySelector("#txt2img_prompt textarea");
        const others = area.value.replace(/\s*<lora:([^:>]+)(:[^>]*)?>/g, (tag, other) => (other === name ? "" : tag));
        area.value = `${others} <lora:${name}:${strength}>`.trim();
        area.dispatchEvent(new Event("input", {bubbles: true}));
        const tabs = Array.from(document.querySelectorAll("#tabs > .tab-nav button, #tabs button[role=tab]"));
        // Forge writes it with a capital
        const tab = tabs.find((node) => node.textContent.trim().toLowerCase() === "txt2img");
        if (tab) {
            tab.click();
        }
    }

    async function plot(name) {
        const values = [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2].map((value) => `<lora:${name}:${value}>`).join(",");
        const copied = await Promise.resolve(navigator.clipboard && navigator.clipboard.writeText(values)).then(
            () => Boolean(navigator.clipboard),
            () => false,
        );
        const told =
            `You come to txt2img now; its prompt ends with <lora:${name}:0>.\n\n` +
            "There, at the bottom, choose Script: X/Y/Z plot, and X type: Prompt S/R. X values are the strengths: " +
            (copied ? "they are in the clipboard, paste them." : "copy them from here.");
        if (copied ? window.confirm(told) : window.prompt(told, values) !== null) {
            prompt(name, 0);
        }
    }

    async function report(id) {
        const answer = await ask(`/runs/${id}/report`);
        if (answer.ok) {
            window.open(URL.createObjectURL(await answer.blob()), "_blank");
        } else {
            window.alert((await answer.json()).detail);
        }
    }

    document.addEventListener("click", (event) => {
        const button = event.target.closest("[data-strength]");
        if (button && button.closest(`${ID}dial`)) {
            prompt(button.closest("[data-lora]").dataset.lora, button.dataset.strength);
        }
    });

    // --- the wall: a row a prompt, a column an evaluation ----------------------------------------------------------

    const WALL = "imagereward-refl-wall";
    const pictures = new Map(); // by path: the address of a contact sheet that was fetched
    let shownRun = "";

    function make(tag, given, ...children) {
        const made = Object.assign(document.createElement(tag), given);
        made.append(...children);
        return made;
    }

    function sheet(run, name, small) {
        const path = `/runs/${run}/samples/${name}${small ? "/small" : ""}`;
        if (!pictures.has(path)) {
            const fetched = ask(path).then(
                async (answer) => (answer.ok ? URL.createObjectURL(await answer.blob()) : ""),
                () => "",
            );
            pictures.set(path, fetched);
            fetched.then((address) => address || pictures.delete(path)); // asked for again at the next look
        }
        return pictures.get(path);
    }

    // One row of a contact sheet, or its first pictures alone: how many of `seeds` are seen.
    async function paint(node, wall, column, row, seen, small) {
        const rows = wall.prompts.length;
        node.style.aspectRatio = `${seen} / 1`;
        node.style.backgroundSize = `${(100 * wall.seeds) / seen}% ${100 * rows}%`;
        node.style.backgroundPosition = `0 ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`;
        node.style.backgroundImage = `url("${await sheet(wall.run, column.sheet, small)}")`;
    }

    const title = (column) =>
        column.step ? `update ${column.step}${column.sheet.endsWith("-now.png") ? ", asked for" : ""}` : "before";

    function hang() {
        const place = find("wall [data-wall]");
        if (!place || place.dataset.hung) {
            return;
        }
        place.dataset.hung = "1";
        const wall = JSON.parse(place.dataset.wall);
        if (wall.run !== shownRun) {
            pictures.forEach((fetched) => fetched.then(URL.revokeObjectURL));
            pictures.clear();
            shownRun = wall.run;
        }
        const head = make(
            "tr",
            {},
            make("th", {scope: "col"}, "Prompt"),
            ...wall.columns.map((column) => make("th", {scope: "col"}, title(column), make("small", {}, column.told))),
        );
        const rows = wall.prompts.map((prompt, row) =>
            make(
                "tr",
                {},
                make("th", {scope: "row"}, prompt),
                ...wall.columns.map((column) => {
                    const cell = make("button", {type: "button", className: `${WALL}-cell`});
                    cell.setAttribute("aria-label", `${prompt}, ${title(column)}: enlarge`);
                    cell.onclick = () => enlarge(wall, column, row);
                    paint(cell, wall, column, row, 1, true);
                    return make("td", {}, cell);
                }),
            ),
        );
        place.replaceChildren(
            make("h4", {}, "Wall: every evaluation, the same seeds"),
            make(
                "div",
                {className: `${WALL}-scroll`, tabIndex: 0},
                make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
            ),
        );
    }

    function enlarge(wall, column, row) {
        const box = make("dialog", {className: `${WALL}-large`});
        const figure = (shown) => {
            const picture = make("div", {
                className: `${WALL}-picture`,
                role: "img",
                ariaLabel: `${wall.prompts[row]}, ${title(shown)}`,
            });
            paint(picture, wall, shown, row, wall.seeds, false);
            return make("figure", {}, picture, make("figcaption", {}, title(shown)));
        };
        const figures = (column === wall.columns[0] ? [column] : [wall.columns[0], column]).map(figure);
        const moved = (column.moved[row] || [])
            .filter((pair) => pair[1] !== null)
            .map(([name, change]) => make("li", {}, `${name} ${change > 0 ? "+" : ""}${change.toFixed(3)}`));
        const close = make("button", {type: "button", onclick: () => box.close()}, "Close");
        box.append(
            make("h4", {}, wall.prompts[row]),
            make("div", {className: `${WALL}-figures`}, ...figures),
            make("ul", {className: `${WALL}-moved`}, ...moved),
            ...(column.step ? actions(wall, column, box) : []),
            close,
        );
        box.addEventListener("close", () => box.remove());
        box.addEventListener("click", (event) => event.target === box && box.close()); // beside it
        find("panel").append(box); // within gradio's container, which has font and theme
        box.showModal();
        close.focus();
    }

    function actions(wall, column, box) {
        const said = make("p", {className: `${WALL}-said`, role: "status"});
        if (!column.saved) {
            said.textContent =
                `The state of update ${column.step} is not kept any more: ` +
                "it can be neither exported nor branched from.";
            return [said];
        }
        const more = make("input", {type: "number", min: 1, value: wall.updates}),
            rate = make("input", {type: "text", inputMode: "decimal", placeholder: "as it was"});
        const buttons = [
            make(
                "button",
                {
                    type: "button",
                    onclick: () => act("export", {step: column.step}, (told) => `Written as ${told.name}.`),
                },
                "Export this update",
            ),
            make("button", {type: "button", onclick: branch}, "Branch from here"),
        ];
        async function act(verb, body, words) {
            buttons.forEach((button) => {
                button.disabled = true;
            });
            said.textContent = "Working …";
            try {
                const answer = await ask(`/runs/${wall.run}/${verb}`, body),
                    told = await answer.json();
                said.textContent = answer.ok
                    ? words(told)
                    : typeof told.detail === "string"
                      ? told.detail
                      : "That is no number of updates or no learning rate.";
                return answer.ok;
            } catch (error) {
                said.textContent = "The WebUI does not answer.";
                return false;
            } finally {
                buttons.forEach((button) => {
                    button.disabled = false;
                });
            }
        }
        async function branch() {
            const body = {
                step: column.step,
                updates: Number(more.value),
                learning_rate: rate.value.trim() ? Number(rate.value) : null,
            };
            if (await act("branch", body, (told) => `Run ${told.id} goes on from here; the old run stays as it is.`)) {
                version = null; // the page turns to the new run
            }
        }
        return [
            make(
                "div",
                {className: `${WALL}-actions`},
                ...buttons,
                make("label", {}, "for ", more, " updates"),
                make("label", {}, "at learning rate ", rate),
            ),
            said,
        ];
    }

    // a LoRA as the host's tag names it: "name:strength"
    const parted = (lora) => lora.split(/:(?=[^:]*$)/);

    window.imagerewardRefl = {use: (lora) => prompt(...parted(lora)), plot: (lora) => plot(parted(lora)[0]), report};
    setInterval(beat, BUSY_MS);
})();
