#!/bin/sh
# Refine a file of drafts with the slhf command. Run it again after an interruption: it goes on where it stopped.
# Usage: sh batch.sh [DIRECTORY]      (SLHF_BASE_URL, SLHF_API_KEY; needs: pip install 'slhf[cli]')
set -eu
directory="${1:-.}"

cat > "$directory/drafts.jsonl" <<'LINES'
{"id": "sky", "prompt": "Why is the sky blue?", "draft": "Because it is."}
{"id": "sea", "prompt": "Why is the sea salty?", "draft": "Fish.", "refine": {"rounds": 1}}
{"id": "ice", "messages": [{"role": "user", "content": "Why does ice float?"}], "draft": "It is light."}
LINES

slhf refine --input "$directory/drafts.jsonl" --output "$directory/refined.jsonl" --concurrency 16
