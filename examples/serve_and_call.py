"""Start a rerank server on this machine, send it one request, and end it.

python serve_and_call.py
"""

import json
import subprocess
import sys
from urllib.request import Request, urlopen

MODEL = "smollm2-135m"
DOCUMENTS = [
    "list.append adds an item to the end of a list.",
    "random.shuffle puts a list in random order.",
    "sorted returns a new sorted list.",
]
BODY = {"query": "how do I sort a list", "documents": DOCUMENTS, "top_n": 2}

# In production: `rerank serve --model smollm2-135m` by itself. Port 0 picks a free one.
command = [sys.executable, "-m", "rerank", "serve", "--model", MODEL, "--port", "0"]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
    try:
        # The server prints its address when the model is loaded and requests are accepted.
        address = server.stdout.readline().strip() if server.stdout else ""
        if not address:
            sys.exit("The server did not start; its message is above.")

        # This is the API of Cohere's rerank, version 2, so its client can be used as well.
        request = Request(f"{address}/v2/rerank", json.dumps(BODY).encode(), {"Content-Type": "application/json"})
        with urlopen(request, timeout=300) as response:
            answer = json.load(response)
    finally:
        server.terminate()

for result in answer["results"]:
    print(f"{result['relevance_score']:.3f}  {DOCUMENTS[result['index']]}")
print("the server has ended")
