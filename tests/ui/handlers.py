"""
A page's handlers called over HTTP as its own script calls them, by one person after the other.

    bob = Caller(page, cookie=cookie_of(session_of("bob"), SECRET))
    bob.call("delete", ["20261123-0915-support-bot"])      what the server tells, as text
"""

import json
import uuid

import httpx

WAIT_SECONDS = 120


class Caller:
    """One tab of one person, with a session of its own.

    Attributes:
        handlers: Name → what the page's configuration says of each handler on the server.
    """

    def __init__(self, page, cookie=None, **headers):
        cookies = {"session": cookie} if cookie else {}
        self.client = httpx.Client(
            base_url=page.url, cookies=cookies, headers=headers, timeout=WAIT_SECONDS
        )
        self.new_tab()
        told = self.client.get("config").json()["dependencies"]
        self.handlers = {one["api_name"]: one for one in told if one["backend_fn"]}

    def new_tab(self):
        """Forget the draft and the offers that the server holds for this tab."""
        self.tab = uuid.uuid4().hex

    def call(self, name, data):
        """All that a handler answers: outputs, step by step, or its error."""
        handler = self.handlers[name]
        body = {"data": data, "fn_index": handler["id"], "session_hash": self.tab}
        if not handler["queue"]:
            return self.client.post("gradio_api/run/predict", json=body).text
        joined = self.client.post("gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        return json.dumps(self._outputs())

    def get(self, path, **query):
        return self.client.get(path, params=query)

    def close(self):
        self.client.close()

    def _outputs(self):
        found = []
        asked = {"session_hash": self.tab}
        with self.client.stream("GET", "gradio_api/queue/data", params=asked) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") in ("process_generating", "process_completed"):
                    output = message["output"]
                    found.append(output.get("data") or output.get("error"))
                if message.get("msg") in ("process_completed", "close_stream"):
                    break
        return found
