"""The bundle's two roles on vLLM: in this process (vllm.py, role.py) or on another server (remote.py).

Only the room `loading/` imports it. vLLM itself is imported by what runs it here, and late: a server without an engine
of its own needs none (tests/server/engine/test_tokenizer.py).
"""
