"""The learned space in a browser: a page, its server, and the page as one file without a server."""
