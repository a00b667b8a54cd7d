"""What is built in: models by the digest of a file (weights.json), and bundles that we trained on them (trained/).

A model's file is looked for in one place after the other (sources.py), kept only with the right digest (fetch.py), and
converted to bfloat16 safetensors once (convert.py). The rest of the server asks for a directory (catalogue.py) and
knows none of this. `loading/` imports it.
"""
