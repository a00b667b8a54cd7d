"""Refined chat with LangChain: only `base_url` differs, and `extra_body` tunes the refinement.

Usage: pip install langchain-openai && python langchain_chat.py [QUESTION]   (SLHF_BASE_URL, SLHF_API_KEY, SLHF_MODEL)
"""

import os
import sys

from langchain_openai import ChatOpenAI
from openai import OpenAI

question = sys.argv[1] if len(sys.argv) > 1 else "Why is the sky blue?"
server = {
    "base_url": f"{os.environ.get('SLHF_BASE_URL', 'http://127.0.0.1:8000')}/v1",
    "api_key": os.environ.get("SLHF_API_KEY", "none"),
}
model = os.environ.get("SLHF_MODEL") or OpenAI(**server).models.list().data[0].id

answer = ChatOpenAI(**server, model=model, extra_body={"refine": {"rounds": 2}}).invoke(question)
print(answer.content)
print(answer.usage_metadata)

refining = ChatOpenAI(**server, model=model, extra_body={"refine": {"rounds": 1, "draft": "Because it is."}})
for chunk in refining.stream(question):
    print(chunk.content, end="", flush=True)
print()
