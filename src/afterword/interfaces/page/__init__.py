"""The chat page: Gradio mounted in FastAPI. Importing this loads no Gradio; `mount_page` does."""

from afterword.interfaces.page.mount import mount_page

__all__ = ["mount_page"]
