"""What is felt in a text: the task."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from pydantic import Field, PositiveInt, field_validator, model_validator

from experiments.files import check_fractions, make_absolute
from experiments.sentiment.baseline import BagOfWords
from experiments.sentiment.buckets import (
    CutEnd,
    Encoded,
    choose_bounds,
    join,
    make_source,
    measure_padding,
)
from experiments.sentiment.corpus import (
    SYMBOLS,
    Corpus,
    encode,
    make_corpus,
)
from experiments.sentiment.figures import Reviewed, draw_review
from experiments.sentiment.glove import (
    Vectors,
    find_vectors,
    measure_coverage,
    read_vectors,
)
from experiments.sentiment.measures import count_outcomes, derive_measures
from experiments.sentiment.reading import Format, Layout
from experiments.sentiment.selection import Selection, quote
from experiments.sentiment.sources import KNOWN_VECTORS, UCI
from experiments.sentiment.tokens import Tokenizer, TokenizerName, make_tokenizer
from jaxlstm.lab import ModelParts, Run, Source, Task, UserError, generator
from jaxlstm.lab.vocabulary import Vocabulary
from jaxlstm.model import ModelParams


class Sentiment(Task):
    """Tells the class of a text, such as whether a review is positive.

    A segment is a batch of whole texts of about the same length, with padding before
    the shorter ones. Only the last step is scored: by binary cross-entropy of one logit
    where there are two classes, by that of a softmax where there are more. Longer texts
    are cut to `train.segment_length` words.

    Attributes:
      source: "uci": 3,000 sentences of reviews; or a path, from the current folder on:
        of a folder such as aclImdb, or of a file of labelled texts.
      test_source: the path of the texts that test, where they are apart. A folder
        `test` beside a folder `train` in `source` is found by itself.
      format: of files: "text_label" or "label_text", a line each with a tabulator in
        between; "csv"; "json", an object a line. By default their ending tells.
      text_column, label_column: of CSV and JSON.
      classes: the labels, in order; by default those that are found.
      validation, test: fractions that are kept from training, the same of each class.
        0: there is no such split. `test` is .2 where texts that test are not apart.
      split_seed: of the draw that splits, which the seed of the run does not change.
      tokenizer: "basic", "whitespace", or "spacy", which needs spaCy.
      lower_case: whether all is read in lower case.
      vocabulary_size: the most symbols, padding and the unknown one included.
      min_count: how often a word has to stand in the texts that train.
      cut: which end of a longer text is left out.
      num_buckets: the most lengths that batches are padded to; each is compiled.
      glove: vectors that the embedding starts from: a path, or the name of a known
        file, such as "glove.6B.100d".
      bag_of_words: whether a logistic regression on bags of words is fitted beside.
    """

    source: str = UCI
    test_source: str | None = None
    format: Format | None = None
    text_column: str = "text"
    label_column: str = "label"
    classes: list[str] | None = Field(default=None, min_length=2)
    validation: float = Field(default=0.1, ge=0, lt=1)
    test: float | None = Field(default=None, ge=0, lt=1)
    split_seed: int = Field(default=0, ge=0, lt=2**32)
    tokenizer: TokenizerName = "basic"
    lower_case: bool = True
    vocabulary_size: int = Field(default=10_000, gt=len(SYMBOLS))
    min_count: PositiveInt = 1
    cut: CutEnd = "end"
    num_buckets: int = Field(default=8, ge=1, le=100)
    glove: str | None = None
    bag_of_words: bool = True

    @field_validator("source", "test_source")
    @classmethod
    def _make_absolute(cls, path: str | None) -> str | None:
        """Lets a run find its texts again from any folder."""
        if path is None or path == UCI:
            return path
        return make_absolute(path)

    @field_validator("glove")
    @classmethod
    def _make_vectors_absolute(cls, name: str | None) -> str | None:
        return name if name is None or name in KNOWN_VECTORS else make_absolute(name)

    @model_validator(mode="after")
    def _check(self) -> Self:
        validation, test = self._selection.shares
        check_fractions(validation, test)
        if self.source == UCI:
            for name in ("test_source", "format", "classes"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f'{name}: source = "{UCI}" has its own; leave it out'
                    )
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: one is there twice; name each once")
        return self

    @property
    def splits(self) -> tuple[str, ...]:
        """Validation and test, where they have texts."""
        return self._selection.splits

    def parts(self) -> ModelParts:
        """Words in; one logit out for two classes, or one for each of several."""
        classes = len(self._corpus.classes)
        outputs = 1 if classes == 2 else classes
        return ModelParts(len(self._corpus.vocabulary), outputs, symbols=True)

    def split(
        self, name: str, *, batch_size: int, segment_length: int, seed: int
    ) -> Source:
        """Returns batches of whole texts; an epoch of training is drawn anew."""
        encoded, bounds = self.batch(name, batch_size, segment_length)
        if name != "train":
            return make_source(encoded, bounds, batch_size)

        def random(epoch: int) -> np.random.Generator:
            return generator(seed, name, epoch)

        padding = measure_padding(encoded.lengths, bounds, batch_size, random(0))
        self._batching["segment_length"] = segment_length
        self._batching["buckets"] = bounds
        self._batching["padding"] = padding._asdict()
        return make_source(encoded, bounds, batch_size, random)

    def batch(
        self, name: str, batch_size: int, segment_length: int
    ) -> tuple[Encoded, list[int]]:
        """Returns the texts of a split, cut, and the bounds of all splits' buckets."""
        encoded = self._corpus.cut(segment_length, self.cut).encoded
        bounds = choose_bounds(
            encoded["train"].lengths,
            num_buckets=self.num_buckets,
            batch_size=batch_size,
            longest=max(int(part.lengths.max()) for part in encoded.values()),
        )
        return encoded[name], bounds

    def loss(self, prediction: jax.Array, target: jax.Array) -> jax.Array:
        """Cross-entropy in nats, binary where there are two classes."""
        if prediction.shape[-1] == 1:
            return optax.sigmoid_binary_cross_entropy(prediction[..., 0], target)
        return optax.softmax_cross_entropy_with_integer_labels(prediction, target)

    def scores(self, prediction: jax.Array, target: jax.Array) -> dict[str, jax.Array]:
        """How often a class is said, there, and both."""
        return count_outcomes(prediction, target, self._corpus.classes)

    def derive(self, averages: dict[str, float]) -> dict[str, float]:
        """Precision, recall and F1: of the second of two classes, else the mean."""
        return derive_measures(averages, self._corpus.classes)

    def initial(self, params: ModelParams) -> ModelParams:
        """Puts word vectors into the embedding; other words keep what was drawn."""
        if self.glove is None:
            return params
        where, (numbers, values) = f"[task] glove = {quote(self.glove)}", self._vectors
        embedding, size = params.recurrent.embedding, values.shape[1]
        if embedding is None:
            raise UserError(
                f'{where}: there is no embedding; set model.inputs = "embedding" and '
                f"model.embedding_size = {size}"
            )
        if embedding.shape[1] != size:
            raise UserError(
                f"{where}: has vectors of {size} numbers, and the embedding "
                f"{embedding.shape[1]}; set model.embedding_size = {size}"
            )
        embedding = embedding.at[numbers].set(values.astype(embedding.dtype))
        return params._replace(recurrent=params.recurrent._replace(embedding=embedding))

    def vocabulary(self) -> Vocabulary:
        """Padding, the unknown symbol, and the words of the texts that train."""
        return self._corpus.vocabulary

    def labels(self) -> Sequence[str]:
        """The names of the classes."""
        return self._corpus.classes

    def encode(
        self, texts: Sequence[str], vocabulary: Vocabulary, segment_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns texts as the model reads them: inputs and mask [T, N]."""
        numbers = [encode(vocabulary, self._tokenize(text)) for text in texts]
        cut = Encoded(numbers, np.zeros(len(texts), np.int32))
        return join(cut.cut(segment_length, self.cut).texts)

    def describe_data(self) -> dict[str, Any]:
        """Sizes and hash, padding, coverage, and what a bag of words reaches."""
        corpus = self._corpus
        unknown = corpus.measure_unknown()
        facts: dict[str, Any] = {
            "source": self.source,
            "sha256": corpus.sha256,
            "classes": list(corpus.classes),
            "splits": {name: len(part.texts) for name, part in corpus.encoded.items()},
            "words": int(corpus.counts.sum()),
            "vocabulary": len(corpus.vocabulary),
            "unknown": {name: round(share, 4) for name, share in unknown.items()},
            **self._batching,
        }
        if self.glove is not None:
            coverage = measure_coverage(self._vectors, corpus.counts)
            facts["glove"] = {
                name: round(share, 4) for name, share in coverage._asdict().items()
            }
        if self.bag_of_words and self._batching:
            bag = self._fit_bag(self._batching["segment_length"])
            facts["bag_of_words"] = {
                name: round(bag.measure(name), 4) for name in self.splits
            } | {"strength": bag.regression.strength}
        return facts

    def figures(self, run: Run) -> dict[str, Figure]:
        """Draws who is taken for whom, the surest mistakes, and lengths."""
        train = run.config.sections.train
        split = next((name for name in reversed(self.splits)), "train")
        encoded, bounds = self.batch(split, train.batch_size, train.segment_length)
        lengths = self.batch("train", train.batch_size, train.segment_length)[0].lengths
        said = None
        if self.bag_of_words:
            said = self._fit_bag(train.segment_length).say(split)
        texts = [example.text for example in self._corpus.examples[split]]
        reviewed = Reviewed(split, self._corpus.classes, texts, encoded, said)
        return draw_review(run, reviewed, lengths, bounds)

    @property
    def _selection(self) -> Selection:
        layout = Layout(self.format, self.text_column, self.label_column)
        return Selection(
            source=self.source,
            test_source=self.test_source,
            layout=layout,
            classes=self.classes,
            validation=self.validation,
            test=self.test,
            split_seed=self.split_seed,
        )

    @functools.cached_property
    def _batching(self) -> dict[str, Any]:
        """What is known of batches once the training split has been made."""
        return {}

    @functools.cached_property
    def _tokenize(self) -> Tokenizer:
        return make_tokenizer(self.tokenizer, lower_case=self.lower_case)

    @functools.cached_property
    def _corpus(self) -> Corpus:
        # Asked for first: spaCy may be missing.
        tokenize = self._tokenize
        classes, examples = self._selection.read()
        return make_corpus(
            examples,
            classes,
            tokenize,
            vocabulary_size=self.vocabulary_size,
            min_count=self.min_count,
        )

    @functools.cached_property
    def _vectors(self) -> Vectors:
        assert self.glove is not None
        symbols = self._corpus.vocabulary.symbols
        numbers = {str(word): number for number, word in enumerate(symbols)}
        for symbol in SYMBOLS:
            del numbers[symbol]
        where = f"[task] glove = {quote(self.glove)}"
        return read_vectors(find_vectors(where, self.glove), numbers)

    @functools.cached_property
    def _fit_bag(self) -> Callable[[int], BagOfWords]:
        """Fits a bag of words, once, to texts cut to a length."""

        @functools.lru_cache(maxsize=1)
        def fit(length: int) -> BagOfWords:
            random = generator(self.split_seed, "bag of words")
            return BagOfWords(self._corpus.cut(length, self.cut), random)

        return fit
