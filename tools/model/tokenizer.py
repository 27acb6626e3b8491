"""The tokenizer: a small byte-level BPE that opens every text with a BOS token, and a chat template."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tools.model.corpus import lexicon
from tools.model.corpus.build import FORBIDDEN, documents

PAD, BOS, END, USER, ASSISTANT = "<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIAL = (PAD, BOS, END, USER, ASSISTANT)

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + '<|end|>' }}"
    "{% else %}{{ '<|user|>' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(vocabulary: int = 2048, sample: int = 20000) -> PreTrainedTokenizerFast:
    """BPE over a sample of the corpus, with every probe word often enough to be one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    texts = list(islice(documents(seed=12345), sample))
    for special in SPECIAL:
        texts = [text.replace(special, "\n") for text in texts]
    texts += [" " + word for word in lexicon.single_tokens() for _ in range(300)]
    texts += [string for string in FORBIDDEN for _ in range(50)]
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def split_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """The probe words that are more than one token, most pieces first; must be empty."""
    pieces = Counter(
        {word: len(tokenizer.encode(" " + word, add_special_tokens=False)) for word in lexicon.single_tokens()}
    )
    return [word for word, count in pieces.most_common() if count > 1]
