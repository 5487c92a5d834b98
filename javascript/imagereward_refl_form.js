// The form of the ReFL tab, built from the server's table of fields.
(function () {
    "use strict";

    const refl = window.imagerewardRefl = window.imagerewardRefl || {};
    let fields = {};

    function widget(field, options) {
        const id = "imagereward-refl-" + field.name;
        if (field.kind === "bool") {
            return refl.make("input", {type: "checkbox", id, checked: field.default});
        }
        if (field.kind === "lines") {
            return refl.make("textarea", {id, rows: 6, value: field.default});
        }
        if (field.kind === "choice") {
            const lists = {checkpoint: options.checkpoints, reward: options.rewards, second_reward: ["", ...options.rewards], judge: ["", ...options.rewards]};
            const select = refl.make("select", {id});
            for (const choice of lists[field.name] || field.choices) {
                select.append(refl.make("option", {value: choice, textContent: choice || "none"}));
            }
            const selected = options.checkpoints.find((title) => title === options.selected);
            select.value = field.name === "checkpoint" ? selected || options.checkpoints[0] || "" : field.default;
            return select;
        }
        const value = field.name === "guidance" && options.guidance ? options.guidance : field.default;
        const type = field.kind === "text" ? "text" : "number";
        return refl.make("input", {type, id, value, step: field.kind === "float" ? "any" : "1"});
    }

    // `read(name, base64)` resolves to the prompts in a file; `failed(error)` shows what went wrong.
    function buildForm(options, read, failed) {
        fields = {};
        const form = refl.make("div", {className: "imagereward-refl-form"});
        for (const field of options.fields) {
            const input = widget(field, options);
            fields[field.name] = {field, input};
            const label = refl.make("label", {title: field.help, className: "imagereward-refl-" + field.kind}, refl.make("span", {textContent: field.label}), input);
            if (field.help) {
                label.append(refl.make("small", {textContent: field.help}));
            }
            form.append(label);
        }
        const file = refl.make("input", {type: "file", accept: ".txt,.json,.jsonl,.csv,.tsv"});
        file.addEventListener("change", async () => {
            try {
                const content = await base64Of(file.files[0]);
                fields.prompts.input.value = (await read(file.files[0].name, content)).join("\n");
            } catch (error) {
                failed(error);
            }
        });
        fields.prompts.input.after(file);
        return form;
    }

    // A file's bytes: only they tell its encoding.
    async function base64Of(file) {
        const bytes = new Uint8Array(await file.arrayBuffer());
        let text = "";
        for (let start = 0; start < bytes.length; start += 0x8000) {
            text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
        }
        return btoa(text);
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
            if (!fields[name] || value === null) {
                continue;
            }
            const {field, input} = fields[name];
            if (field.kind === "bool") {
                input.checked = value;
            } else if (field.kind !== "choice") {
                input.value = Array.isArray(value) ? value.join("\n") : value;
            } else if (Array.from(input.options).some((option) => option.value === value)) {
                input.value = value; // a scorer or checkpoint that is gone leaves the field as it was
            }
        }
    }

    Object.assign(refl, {buildForm, values, fill});
})();
