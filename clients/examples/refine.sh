#!/bin/sh
# Refine one draft with curl, first as one answer, then as a stream of events.
# Usage: sh refine.sh      (SLHF_BASE_URL, SLHF_API_KEY)
set -eu
server="${SLHF_BASE_URL:-http://127.0.0.1:8000}"
body='{"prompt": "Why is the sky blue?", "draft": "Because it is.", "rounds": 2'

curl --fail-with-body --silent --show-error "$server/v1/refine" \
    -H "Authorization: Bearer ${SLHF_API_KEY:-none}" -H "Content-Type: application/json" \
    -d "$body}"
echo

curl --fail-with-body --silent --show-error --no-buffer "$server/v1/refine" \
    -H "Authorization: Bearer ${SLHF_API_KEY:-none}" -H "Content-Type: application/json" \
    -d "$body, \"stream\": true}"
