// The ReFL tab is made of gradio components; this is its heartbeat, and what Python cannot do in a page.
(function () {
    "use strict";

    const ID = "#imagereward_refl_", BUSY_MS = 1000, IDLE_MS = 4000;
    const find = (name) => document.querySelector(ID + name);
    let asking = false, version = null, asked = 0, settling = 0;

    const ask = async (path) => {
        const {prefix, token} = find("boot [data-boot]").dataset;
        return fetch(prefix.replace(/^\//, "") + path, {headers: {"X-ImageReward-Token": token}});
    };

    // gradio calls functions by number. On a page that was left open over a Reload UI our numbers belong to other
    // buttons, the host's Generate among them: nothing is clicked before the server has said that this page is its own.
    async function beat() {
        const panel = find("panel"), mark = find("boot [data-boot]");
        if (!panel || !mark || panel.offsetParent === null || document.hidden) {
            version = null; // in front again: ask anew
            return;
        }
        const wait = version === null || find("status [data-live='1']") ? BUSY_MS : IDLE_MS;
        if (asking || mark.dataset.stale || Date.now() - asked < wait - BUSY_MS / 2) {
            return;
        }
        asking = true;
        asked = Date.now();
        try {
            const answer = await ask("/state");
            const state = answer.ok ? await answer.json() : {};
            if (answer.status === 401 || answer.ok && state.boot !== mark.dataset.boot) {
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
        const tab = tabs.find((node) => node.textContent.trim().toLowerCase() === "txt2img"); // Forge writes it with a capital
        if (tab) {
            tab.click();
        }
    }

    async function plot(name) {
        const values = [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2].map((value) => `<lora:${name}:${value}>`).join(",");
        const copied = await Promise.resolve(navigator.clipboard && navigator.clipboard.writeText(values)).then(() => Boolean(navigator.clipboard), () => false);
        const told = `You come to txt2img now; its prompt ends with <lora:${name}:0>.\n\nThere, at the bottom, choose Script: X/Y/Z plot, and X type: Prompt S/R. X values are the strengths: ${copied ? "they are in the clipboard, paste them." : "copy them from here."}`;
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

    // a LoRA as the host's tag names it: "name:strength"
    const parted = (lora) => lora.split(/:(?=[^:]*$)/);

    window.imagerewardRefl = {use: (lora) => prompt(...parted(lora)), plot: (lora) => plot(parted(lora)[0]), report};
    setInterval(beat, BUSY_MS);
})();
