"""The page's server as a client sees it, and routes of Gradio that the page needs."""

import asyncio

from fastapi.testclient import TestClient

from workbench.page.server import create_app

GRADIO_ROUTES = ("/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/app_id")


def client_of(bench, auth=None):
    async def made():  # Gradio leaves an event loop open where none is running
        return create_app(bench, auth=auth)

    return TestClient(asyncio.run(made()), base_url="http://127.0.0.1")
