"""The teacher's pages, a client of the server like any other. Only this package imports gradio."""
