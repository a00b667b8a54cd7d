"""Chat templates and tokenizers in small, each with the traits of a published family that prompts have tripped over.

Templates are ours and short; what they have in common with the published ones is named beside each. Tokenizers are
trained in milliseconds on a few sentences.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

CORPUS = [
    "What is 2 + 2? It is 4. Improve the previous answer, and be brief.",
    "system user assistant model instruction Hello there, how are you today?",
    "The assistant answers the user in turn.\n\nYou are a helpful assistant.\nToday is Monday.",
    "<s> and </s> are tags; so are [INST] and [/INST], <b> and </b>; the end, the start of the turn.",
]
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's and Qwen's pattern: punctuation takes the line breaks after it along."""


@dataclass(frozen=True)
class Family:
    make: Callable[[], Tokenizer]
    template: str | dict[str, str]
    bos: str | None = None
    eos: str | None = None
    unknown: str | None = None
    control: Sequence[str] = ()
    """Turn markers that the published tokenizer does not mark as special."""
    refuses_system: bool = False
    alternates: bool = False
    takes_parts: bool = False
    opens_thought: bool = False

    def tokenizer(self) -> Any:
        named = {"bos_token": self.bos, "eos_token": self.eos, "unk_token": self.unknown}
        backend = Tokenizer.from_str(self._saved)
        made = PreTrainedTokenizerFast(tokenizer_object=backend, **{k: v for k, v in named.items() if v})
        made.chat_template = self.template
        return made

    @functools.cached_property
    def _saved(self) -> str:
        return self.make().to_str()


def special(*texts: str, **flags: bool) -> list[AddedToken]:
    return [AddedToken(text, special=True, **{"normalized": False, **flags}) for text in texts]


def ordinary(*texts: str, **flags: bool) -> list[AddedToken]:
    return [AddedToken(text, special=False, **{"normalized": False, **flags}) for text in texts]


def byte_level(tokens: Sequence[AddedToken], pattern: str = GPT4, ignore_merges: bool = False) -> Tokenizer:
    """GPT's kind: bytes behind a pattern."""
    made = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    made.add_tokens(list(tokens))
    return made


def beginning(made: Tokenizer, bos: str) -> Tokenizer:
    """One that puts this token before every text."""
    number = made.token_to_id(bos)
    made.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, number)])
    return made


def sentencepiece(tokens: Sequence[AddedToken], kind: str, fallback: bool = True) -> Tokenizer:
    """SentencePiece's BPE as it is converted. `legacy`: a normalizer puts `▁` before every stretch between special
    tokens; `first`, `always`, `never`: a Metaspace pre-tokenizer does; `none`: spaces are replaced, nothing is put."""
    first = [token.content for token in tokens if token.special][:3]  # they are in the model's vocabulary too
    made = Tokenizer(models.BPE(unk_token=first[0], byte_fallback=fallback, fuse_unk=True))
    if kind == "legacy":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    elif kind == "none":
        made.normalizer = normalizers.Replace(" ", "▁")
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=kind, split=False)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)] if fallback else []
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[*first, *bytes_], show_progress=False)
    made.train_from_iterator([f"▁{line.replace(' ', '▁')}" for line in CORPUS], trainer)
    made = _without_added(made)
    made.add_tokens(list(tokens))
    return made


def _without_added(made: Tokenizer) -> Tokenizer:
    """A trainer marks all it was given as special; byte pieces are not."""
    return Tokenizer.from_str(json.dumps(json.loads(made.to_str()) | {"added_tokens": []}))


def unigram(tokens: Sequence[AddedToken]) -> Tokenizer:
    """Its vocabulary holds `</s>` with the best score, so the model itself finds it in any text. Normalises (NFKC)."""
    letters = sorted({*"".join(CORPUS)} - {" "})
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0), ("▁the", -4.0), ("assist", -4.0), ("ant", -4.0)]
    made = Tokenizer(models.Unigram([*pieces, *((letter, -6.0) for letter in letters)], unk_id=0))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    made.decoder = decoders.Metaspace()
    made.add_tokens(list(tokens))
    return made


def words(tokens: Sequence[AddedToken]) -> Tokenizer:
    """WordPiece, as BERT's: lower case, punctuation apart, most characters unknown."""
    letters = sorted({*"".join(CORPUS).lower()} - {" ", "\n"})
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "the", "assistant", *letters, *(f"##{c}" for c in letters if c.isalnum())]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_tokens(list(tokens))
    return made


ALTERNATE = (
    "{% for m in chat %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
CHAT = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set chat = messages[1:] %}{% else %}"
)
CHAT += "{% set system = '' %}{% set chat = messages %}{% endif %}"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HELPFUL = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    + CHATML
)
TURN = "<|START_OF_TURN_TOKEN|>"
COMMAND = (
    "{{ bos_token }}{% for m in messages %}{{ '" + TURN + "' }}"
    "{% if m.role == 'user' %}<|USER_TOKEN|>{% elif m.role == 'system' %}<|SYSTEM_TOKEN|>{% else %}<|CHATBOT_TOKEN|>"
    "{% endif %}{{ m.content.strip() }}<|END_OF_TURN_TOKEN|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '" + TURN + "<|CHATBOT_TOKEN|>' }}{% endif %}"
)
IM = special("<|endoftext|>", "<|im_start|>", "<|im_end|>")
HEADERS = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
DEEP = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]

FAMILIES: dict[str, Family] = {
    # meta-llama/Llama-2-7b-chat-hf: [INST] is text, user and assistant are stripped, a system prompt stands inside of
    # the first user turn, roles alternate; legacy SentencePiece, <s> and </s> in the model's vocabulary.
    "Llama 2": Family(
        lambda: sentencepiece(special("<unk>", "<s>", "</s>"), "legacy"),
        CHAT
        + ALTERNATE
        + "{% if loop.first and system %}{% set said = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content"
        " %}{% else %}{% set said = m.content %}{% endif %}{% if m.role == 'user' %}"
        "{{ bos_token + '[INST] ' + said.strip() + ' [/INST]' }}{% else %}{{ ' ' + said.strip() + ' ' + eos_token }}"
        "{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        "<unk>",
        alternates=True,
    ),
    # meta-llama/Meta-Llama-3-8B-Instruct: headers, contents trimmed, ignore_merges, hundreds of reserved tokens.
    "Llama 3": Family(
        lambda: byte_level(
            special(*HEADERS, *(f"<|reserved_special_token_{n}|>" for n in range(250))), ignore_merges=True
        ),
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        HEADERS[0],
        "<|eot_id|>",
    ),
    # allenai/Llama-3.1-Tulu-3-8B, pasztorb/Llama-3.1-Tulu-3-8B-SLHF: Llama 3's tokenizer, which begins texts with BOS,
    # under a template without it; turn markers are plain text, and the last answer has no line break after it.
    "Tulu 3": Family(
        lambda: beginning(byte_level(special(*HEADERS, "<pad>"), ignore_merges=True), HEADERS[0]),
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token }}"
        "{% if not loop.last %}{{ '\n' }}{% endif %}"
        "{% else %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}",
        HEADERS[0],
        "<|end_of_text|>",
    ),
    # mistralai/Mistral-7B-Instruct-v0.1: alternation, no system turn, [INST] is text, BOS once, nothing is stripped.
    "Mistral 0.1": Family(
        lambda: sentencepiece(special("<unk>", "<s>", "</s>"), "first"),
        "{{ bos_token }}{% set chat = messages %}"
        + ALTERNATE
        + "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ m.content + eos_token + ' ' }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        "<unk>",
        refuses_system=True,
        alternates=True,
    ),
    # mistralai/Mistral-Small-24B-Instruct-2501 (V7-Tekken): control tokens without spaces around them.
    "Mistral 7-Tekken": Family(
        lambda: byte_level(special("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")),
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
        "{% elif m.role == 'system' %}{{ '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
        "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
    ),
    # google/gemma-2-9b-it: no system turn, alternation, trimmed, the assistant is called model; spaces are replaced and
    # nothing is put before them; runs of white space and HTML tags are added tokens that are not special.
    "Gemma": Family(
        lambda: sentencepiece(
            [
                *special("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
                *ordinary("\n\n", "\n\n\n", "▁▁", "▁▁▁", "<b>", "</b>"),
            ],
            "none",
        ),
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}"
        "{% set chat = messages %}" + ALTERNATE + "{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<bos>",
        "<eos>",
        "<unk>",
        refuses_system=True,
        alternates=True,
    ),
    # microsoft/Phi-3-mini-4k-instruct: special tokens that strip to their right, so a template's line breaks vanish.
    "Phi 3": Family(
        lambda: sentencepiece(
            [
                *special("<unk>", "<s>"),
                *special("</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>", rstrip=True),
            ],
            "legacy",
        ),
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
        "<s>",
        "<|endoftext|>",
        "<unk>",
    ),
    # Qwen/Qwen2.5-7B-Instruct: ChatML with a system prompt of its own, tags of tool calls that are not special.
    "Qwen 2": Family(lambda: byte_level([*IM, *ordinary("<tool_call>", "</tool_call>")]), HELPFUL, eos="<|im_end|>"),
    # Qwen/Qwen3-8B: earlier thoughts are cut out of what assistants said; <think> is an added token, not special.
    "Qwen 3": Family(
        lambda: byte_level([*IM, *ordinary("<tool_call>", "</tool_call>", "<think>", "</think>")]),
        "{% for m in messages %}{% if m.role == 'assistant' and '</think>' in m.content %}"
        "{% set said = m.content.split('</think>')[-1].lstrip('\n') %}{% else %}{% set said = m.content %}{% endif %}"
        "{{ '<|im_start|>' + m.role + '\n' + said + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        eos="<|im_end|>",
    ),
    # deepseek-ai/DeepSeek-R1: the system prompt stands bare, turn markers are not marked as special, the assistant's
    # turn is begun with <think>, and names of tokens hold letters beyond ASCII.
    "DeepSeek R1": Family(
        lambda: byte_level([*special(*DEEP), *ordinary("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")]),
        "{{ bos_token }}{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
        "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
        "{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}",
        DEEP[0],
        DEEP[1],
        control=["<｜User｜>", "<｜Assistant｜>"],
        opens_thought=True,
    ),
    # CohereForAI/c4ai-command-r-v01: named templates; turn markers are not marked as special.
    "Command R": Family(
        lambda: byte_level(
            [
                *special("<PAD>", "<BOS_TOKEN>", "<EOS_TOKEN>"),
                *ordinary(TURN, "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"),
            ]
        ),
        {"default": COMMAND, "rag": "rag", "tool_use": "tools"},
        "<BOS_TOKEN>",
        "<|END_OF_TURN_TOKEN|>",
        control=[TURN, "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>"],
    ),
    # allenai/OLMo-7B-Instruct: turn markers are plain text; GPT-NeoX's runs of spaces are added tokens, normalised.
    "OLMo": Family(
        lambda: byte_level([*special("<|endoftext|>"), *ordinary("  ", "    ", normalized=True)]),
        "{{ eos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        eos="<|endoftext|>",
    ),
    # ibm-granite/granite-3.1-8b-instruct: a default system prompt with today's date.
    "Granite": Family(
        lambda: byte_level(special("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>")),
        "{% if messages[0].role != 'system' %}{{ '<|start_of_role|>system<|end_of_role|>Today is '"
        " + strftime_now('%B %d, %Y') + '.<|end_of_text|>\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' }}"
        "{{ m.content + '<|end_of_text|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}",
        eos="<|end_of_text|>",
    ),
    # HuggingFaceTB/SmolLM2-135M-Instruct: ChatML with a system prompt of its own; digits one by one.
    "SmolLM": Family(
        lambda: byte_level(IM, r"\p{N}|'\w| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"), HELPFUL, eos="<|im_end|>"
    ),
    # NousResearch/Hermes-2-Pro-Mistral-7B: plain ChatML on a SentencePiece vocabulary without bytes.
    "ChatML": Family(
        lambda: sentencepiece(special("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"), "always", fallback=False),
        CHATML,
        eos="<|im_end|>",
        unknown="<unk>",
    ),
    # HuggingFaceTB/SmolVLM-Instruct, llava-hf: contents are lists of parts, and text alone would vanish. The tokenizer
    # normalises, special tokens too (google-t5, XLM-R).
    "parts": Family(
        lambda: unigram(special("<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", normalized=True)),
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% for part in m.content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% endif %}{% endfor %}</s>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
        eos="</s>",
        unknown="<unk>",
        takes_parts=True,
    ),
    # Zephyr's template (HuggingFaceH4/zephyr-7b-beta) on BERT's tokenizer: lower case; tokens strip to their left.
    "words": Family(
        lambda: words(special("[UNK]", "[CLS]", "[SEP]", "[user]", "[assistant]", "[system]", lstrip=True)),
        "{% for m in messages %}{{ '[' + m.role + ']\n' + m.content + ' [SEP]\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]\n' }}{% endif %}",
        eos="[SEP]",
        unknown="[UNK]",
    ),
}
