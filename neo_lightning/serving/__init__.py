"""A model behind HTTP: OpenAI's chat completions, and a chat page.

    socket --protocol.py: time limits--> gate.py: who may ask --> app.py: which endpoint
    body --body.py: bounded--> JSON --fields.py, messages.py--> Asked
    addresses --media.py, fetching.py--> bytes --service.py: pools of threads--> Prompt --answering/batching--> pieces
    pieces --chat.py--> a completion, or events

Everything from outside is bounded where it comes in: in bytes, in seconds, in pixels, in tokens, in how many at once.
The loop never waits for a decoder, a file or the model: those have threads. Starlette and uvicorn alone: bodies are
read here, since a validating framework would read them whole first and refuse in words that OpenAI's clients do not
know.
"""
