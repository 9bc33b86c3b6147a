"""How the page's events are registered (none of them is an endpoint of the API), and what runs in the browser."""

PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}
# Samplers wait in a line that can tell how many are ahead; this limit only keeps gradio's threads from running out.
COMPUTE = {"concurrency_id": "compute", "concurrency_limit": 16}
SETUP = {"concurrency_id": "setup", "concurrency_limit": 4}  # what may take a second or two

# Gradio's text field takes a pressed key for what is entered, and does not hear of what is deleted or pasted.
HEAR_INPUT = """() => {
    document.addEventListener("input", ({ target }) => {
        if (target.matches("[data-testid=textbox]")) target.dispatchEvent(new KeyboardEvent("keypress"));
    });
}"""
MOUNTED = "() => { document.documentElement.dataset.mounted = 'yes' }"  # for tests: now clicks are heard
# On a narrow page the run is far below the button.
INTO_VIEW = """() => {
    const head = document.querySelector("#train-head");
    if (window.innerWidth <= 860 && head) head.scrollIntoView({ behavior: "smooth" });
}"""
# A page that is left says so to the one that comes after it in the same tab: which session it was, or, where it had not
# heard of its own, which one it came after. A copy of an open page finds nothing. Some browsers keep nothing.
BEFORE = """() => {
    try {
        window.pirfSession = sessionStorage.getItem("pirf-left") || "";
        sessionStorage.removeItem("pirf-left");
        window.addEventListener("pagehide", () => sessionStorage.setItem("pirf-left", window.pirfSession));
        return [window.pirfSession, performance.timeOrigin];
    } catch {
        return ["", 0];
    }
}"""
REMEMBER = "(session) => { window.pirfSession = session }"
STOPPING = """() => {
    const pill = document.querySelector("#train-head .pill");
    if (pill) pill.textContent = "Stopping";
}"""
NO_PRESET = "() => null"  # what is entered is no preset's recipe any more, and Start may be pressed at once
# A preset's recipe and what it takes go on the page, unless something was entered or another preset chosen by now.
FITTED = """(fitted, preset, ...now) => {
    const { preset: asked, values } = JSON.parse(fitted || "{}");
    return asked && asked === preset ? values.map((value, i) => value ?? now[i]) : now;
}"""


def all_of(*scripts: str) -> str:
    """Functions of JavaScript as one that calls them in turn."""
    return "() => {" + "".join(f"({script})();" for script in scripts) + "}"
