"""A web page that shows answers while they are written; the key stays on this server.

    pip install openai
    python web.py smollm2:135m    # beside ../web/page.html; PORT=3000 unless set
"""

import http.server
import json
import os
import pathlib
import sys

from openai import APIError, OpenAI

if len(sys.argv) < 2:
    sys.exit(__doc__)
model = sys.argv[1]
page = (pathlib.Path(__file__).parent.parent / "web" / "page.html").read_bytes()
client = OpenAI()

MAX_BODY_BYTES = 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path != "/":
            return self.send_error(404)
        self.start(200, "text/html; charset=utf-8")
        self.wfile.write(page)

    def do_POST(self):
        # Other pages that a browser has open can't send JSON here without being asked first.
        is_json = self.headers.get_content_type() == "application/json"
        length = int(self.headers.get("Content-Length") or 0)
        if self.path != "/chat" or not is_json or not 0 < length <= MAX_BODY_BYTES:
            return self.send_error(400)
        try:
            messages = json.loads(self.rfile.read(length))["messages"]
        except (ValueError, KeyError, TypeError):
            return self.send_error(400)
        self.start(200, "text/event-stream")
        try:
            stream = client.chat.completions.create(
                model=model, messages=messages, max_tokens=400, stream=True
            )
            # Leaving it hangs up, when the browser has, and the model stops writing.
            with stream:
                for chunk in stream:
                    if chunk.choices and (text := chunk.choices[0].delta.content):
                        self.send_event({"text": text})
            self.send_event({"done": True})
        except APIError as error:
            self.send_event({"error": error.message})
        except (BrokenPipeError, ConnectionResetError):
            pass

    def start(self, status, content_type):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def send_event(self, event):
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "3000"))), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
