"""How the page's events are registered (none of them is an endpoint of the API), and what runs in the browser."""

PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}
# Samplers wait in a line that can tell how many are ahead; this limit only keeps gradio's threads from running out.
COMPUTE = {"concurrency_id": "compute", "concurrency_limit": 16}
SETUP = {"concurrency_id": "setup", "concurrency_limit": 4}  # what may take a second or two

# On a narrow page the run is far below the button.
INTO_VIEW = """() => {
    const head = document.querySelector("#train-head");
    if (window.innerWidth <= 860 && head) head.scrollIntoView({ behavior: "smooth" });
}"""
# The session that this page of the browser's was before it was loaded again; some browsers forbid to keep anything.
BEFORE = "() => { try { return sessionStorage.getItem('pirf-session') || '' } catch { return '' } }"
REMEMBER = "(session) => { try { sessionStorage.setItem('pirf-session', session) } catch {} }"
STOPPING = """() => {
    const pill = document.querySelector("#train-head .pill");
    if (pill) pill.textContent = "Stopping";
}"""
