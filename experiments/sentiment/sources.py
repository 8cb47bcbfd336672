"""Known sentences and vectors: where they come from, and what they must be."""

from jaxlstm.lab.data import DataFile

UCI = "uci"
CLASSES = "0", "1"
_UCI_ARCHIVE = (
    "https://archive.ics.uci.edu/static/public/331/sentiment+labelled+sentences.zip"
)


def _sentences(site: str, sha256: str, size: int) -> DataFile:
    return DataFile(
        name=f"uci_{site}_labelled.txt",
        url=_UCI_ARCHIVE,
        hash=f"sha256:{sha256}",
        size=size,
        member=f"sentiment labelled sentences/{site}_labelled.txt",
    )


# Three times 1,000 sentences, half of them 1, positive; CC BY 4.0. Kotzias et al., From
# Group to Individual Labels Using Deep Features, KDD 2015.
UCI_FILES = (
    _sentences(
        "imdb",
        "c662b9360c1652babb990d164835af12aa105db7991f1fdb19038115f0e93de8",
        85_187,
    ),
    _sentences(
        "yelp",
        "b565b1eeb864d76842588c3a256731b08bcdd9faf6de507bfe211a96f8b81912",
        61_293,
    ),
    _sentences(
        "amazon_cells",
        "47003fc0a0d4840b00e96e715b6189bad09e7443a3da41c4cbe12ffc79f86ae3",
        58_226,
    ),
)

# Pennington, Socher and Manning, GloVe: Global Vectors for Word Representation, EMNLP
# 2014; PDDL 1.0. No hash of the files themselves is published, so that they are read
# where they are found and not fetched.
_GLOVE_ARCHIVE = "https://nlp.stanford.edu/data/glove.6B.zip"
_GLOVE_SIZES = {50: 171_350_079, 100: 347_116_733, 200: 693_432_828, 300: 1_037_962_819}

KNOWN_VECTORS = {
    f"glove.6B.{length}d": DataFile(
        name=f"glove.6B.{length}d.txt",
        url=_GLOVE_ARCHIVE,
        size=size,
        member=f"glove.6B.{length}d.txt",
    )
    for length, size in _GLOVE_SIZES.items()
} | {
    "glove.6B.100d.head629": DataFile(
        name="glove.6B.100d.head629.txt",
        hash="sha256:1085a1903ef877da197664726ff5ca70deebd19e10758b44276814860f1898c9",
        size=538_330,
        note="take the first 629 lines of glove.6B.100d.txt, from glove.6B.zip at "
        f"{_GLOVE_ARCHIVE}",
    )
}
