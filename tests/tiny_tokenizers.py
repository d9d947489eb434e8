"""Tokenizers of a few words, made on the spot: no file and no network."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

WORDS = "the a long film is good bad"
SENTENCES = [
    "the film is good and the story is long",
    "the story is dull but the actors are delightful",
    "a long film about a good story that is bad",
]


def wrapped(core, special, bos, eos_behind, side, **names):
    """A tokenizer of transformers that may put BOS in front and EOS behind."""
    if bos or eos_behind:
        shape = f"{'<s> ' * bos}$A{' </s>' * eos_behind}"
        core.post_processor = processors.TemplateProcessing(single=shape, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side=side, **({"bos_token": "<s>"} if bos else {}), **names
    )


def word_level(words=WORDS, bos=False, eos_behind=False, eos=True, side="right"):
    """One token a word, in order behind <unk>, </s> and, with BOS, <s>; spaces are dropped."""
    special = ["<unk>", "</s>", *(["<s>"] if bos else [])]
    table = {word: i for i, word in enumerate([*special, *words.split()])}
    core = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"eos_token": "</s>"} if eos else {}
    given = [(word, table[word]) for word in special]
    return wrapped(core, given, bos, eos_behind, side, **names)


def bpe(bos=False, eos_behind=False, side="right", size=340):
    """Pieces of words, as GPT-2 has: a space belongs to the word behind it, and no text is lost."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(SENTENCES, trainer)
    given = [(word, core.token_to_id(word)) for word in special]
    return wrapped(core, given, bos, eos_behind, side, eos_token="</s>")
