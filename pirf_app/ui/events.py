"""How the page's events are registered: none of them is an endpoint of the API."""

PRIVATE = {"api_visibility": "private"}
QUIET = PRIVATE | {"show_progress": "hidden"}
SETUP = {"concurrency_id": "setup", "concurrency_limit": 4}  # what may take a second or two
