"""How the page's events are registered: none of them is an endpoint of the API."""

PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}
# Samplers wait in a line that can tell how many are ahead; this limit only keeps gradio's threads from running out.
COMPUTE = {"concurrency_id": "compute", "concurrency_limit": 16}
SETUP = {"concurrency_id": "setup", "concurrency_limit": 4}  # what may take a second or two
