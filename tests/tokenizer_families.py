"""Small tokenizers built on the spot, one of each family that catalogue models come from.

Each is as unsafe as its family can be: control tokens stand in the vocabulary as ordinary words
too, and where pieces are merged, merges lead to them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from llmarking.engines.tokenizing import HubTokenizer

CORPUS = [
    "A stack is last in, first out; push and pop take constant time. A queue is first in.",
    "Photosynthesis turns carbon dioxide and water into glucose and oxygen, with light.",
    "if (x < 0 || y > 1) { return f(x)[0]; }  # code <b>and</b> tags </b> <s> </s>",
    "哈希表存储键值对，平均查找时间为常数。 Übung größte café naïve œuvre",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ 1 2 3 4 5 6 7 8 9 0",
    "True False true false Question: Answer: Student's answer: Verdicts:",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ '<s>' }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{{ '<start_of_turn>' + m.role + '\n' + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{{ '<start_of_turn>model\n' }}"
)


def byte_level() -> HubTokenizer:
    """As GPT-2, Qwen, Llama 3: bytes, and added tokens of both kinds beside the vocabulary."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(["<tool_call>", "</tool_call>", "<think>", "</think>"])
    return _hub(tokenizer, CHATML)


def whole_words_first() -> HubTokenizer:
    """As Llama 3 with `ignore_merges`: a word of the vocabulary is taken whole."""
    words = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(words[:3])
    tokenizer.add_tokens(words[3:])
    return _hub(tokenizer, CHATML)


def byte_fallback() -> HubTokenizer:
    """As Llama 2, Mistral, Yi: SentencePiece BPE with bytes, and merges that end in </s>."""
    controls = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    tokenizer = _sentencepiece(controls, prefix=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return _hub(tokenizer, LLAMA)


def blanks_as_tokens() -> HubTokenizer:
    """As Gemma: line breaks, runs of blanks and HTML tags are added tokens and words."""
    controls = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    texts = ["\n", "\n\n", "▁▁", "▁▁▁", "é", "<b>", "</b>"]
    tokenizer = _sentencepiece([*controls, *texts], prefix=False)
    tokenizer.add_special_tokens(controls)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in texts])
    return _hub(tokenizer, GEMMA)


def unigram() -> HubTokenizer:
    """As T5, XLM-R: the best-scoring way to cut a text, and no piece scores better than </s>."""
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(letter, -4.0) for letter in letters] + [("▁stack", -3.0), ("▁the", -3.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 2)]
    )
    return _hub(tokenizer, None)


def word_piece() -> HubTokenizer:
    """As BERT, without its cleaning: a word of the vocabulary is taken whole."""
    controls = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = [*controls, *letters, *("##" + letter for letter in letters), "stack", "the"]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(controls)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    # Files made for training cut and fill: an answer must survive that.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=16, pad_token="[PAD]")
    return _hub(tokenizer, None)


def tekken() -> HubTokenizer:
    """Mistral's own 131,072 pieces and 1,000 control tokens, from the file mistral-common ships."""
    import mistral_common
    from transformers.integrations.mistral.tokenizer import MistralConverter

    data = Path(mistral_common.__file__).parent / "data"
    newest = max(data.glob("tekken*.json"))
    return _hub(MistralConverter(str(newest)).converted(), LLAMA)


FAMILIES: dict[str, Callable[[], HubTokenizer]] = {
    builder.__name__: builder
    for builder in (
        byte_level,
        whole_words_first,
        byte_fallback,
        blanks_as_tokens,
        unigram,
        word_piece,
        tekken,
    )
}


def _sentencepiece(words: list[str], *, prefix: bool) -> Tokenizer:
    """BPE over characters with bytes for unknown ones; each of `words` can be merged together."""
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    letters = sorted(set("".join(CORPUS)) - {" "})
    pieces = dict.fromkeys([*words, *bytes_, "▁", *letters])
    merges = []
    for word in words:
        for end in range(2, len(word) + 1):
            if all(character in pieces for character in word[: end - 1] + word[end - 1]):
                merges.append((word[: end - 1], word[end - 1]))
                pieces.setdefault(word[:end])
    merges = [pair for pair in dict.fromkeys(merges) if set(pair) <= set(pieces)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    unknown = next(word for word in words if "unk" in word)
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, unk_token=unknown, byte_fallback=True, fuse_unk=True)
    )
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence(steps)
    if prefix:
        tokenizer.add_special_tokens(words)
    return tokenizer


def _hub(tokenizer: Tokenizer, template: str | None) -> HubTokenizer:
    return HubTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template))
