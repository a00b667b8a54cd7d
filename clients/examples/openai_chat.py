"""Refined chat with the official openai SDK: only `base_url` differs, and `extra_body` tunes the refinement.

Usage: python openai_chat.py [QUESTION]      (SLHF_BASE_URL, SLHF_API_KEY, SLHF_MODEL)
"""

import os
import sys

from openai import OpenAI

question = sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?"
server = os.environ.get("SLHF_BASE_URL", "http://127.0.0.1:8000")

with OpenAI(base_url=f"{server}/v1", api_key=os.environ.get("SLHF_API_KEY", "none")) as client:
    model = os.environ.get("SLHF_MODEL") or client.models.list().data[0].id

    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        extra_body={"refine": {"rounds": 2}},
    )
    print(answer.choices[0].message.content)
    print((answer.model_extra or {}).get("refinement"))

    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"refine": {"rounds": 1, "draft": "Because it is.", "timeout_ms": 60_000}},
    )
    for chunk in stream:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
        if chunk.usage:
            print(f"\n{chunk.usage.total_tokens} tokens")
