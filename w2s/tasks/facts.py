"""The offline world: a few thousand statements of graded difficulty, true or false, about invented places.

Pretraining reads verdicts on all statements, test statements included ("Orvale is coastal: yes"); that is the point:
the knowledge lies in pretraining, and finetuning on the task only elicits it. Bigger models know more of it.
"""

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from w2s.config import FactsTask
from w2s.seeds import Role, stream
from w2s.tasks.build import Row, SourceRows

_STARTS = "Or Bel Cas Dur El Fen Gal Har Ith Jor Kel Lor Mar Nor Os Pel Quil Ros Sol Tam"
_ENDS = "vale dor mere wick stead grove haven moor ridge brook ton ford holm crest lund gate"
_ADJECTIVES = """
    coastal ancient windy wealthy fortified fertile remote crowded sacred icy
    volcanic forested musical neutral famous peaceful humid mountainous industrial colourful
    walled sunny foggy marshy haunted royal rural dusty independent scenic
    bilingual hilly flooded festive poor quiet stormy prosperous abandoned sandy
"""
ENTITIES = tuple(start + end for start in _STARTS.split() for end in _ENDS.split())
PROPERTIES = tuple(_ADJECTIVES.split())
"""The world has 320 entities and 40 properties; their names are the same in every world."""

_FACTORS = 64
_FACTOR_DECAY = 0.65
_MAIN_EFFECT = 0.35
_ZIPF_EXPONENT = 0.5


@dataclass(frozen=True)
class World:
    """Which statements are true, and how often a corpus speaks of them."""

    truth: np.ndarray
    """Bool, shape (320 entities, 40 properties); half of each column is true."""
    frequency: np.ndarray
    """Probability that a sentence of the corpus is about this statement; same shape, sums to 1."""


@lru_cache(maxsize=8)
def make_world(world_seed: int) -> World:
    """The world of a seed.

    z[e, p] = sum over k <= 64 of k^-0.65 * U[e, k] * (V[p, k] + 0.35), U and V standard normal; a statement is true if
    its z is above its property's median. The factors' decay grades the difficulty; 0.35 gives entities a main effect. A
    statement of (random) rank r is told with frequency proportional to r^-0.5.
    """
    rng = stream(world_seed, Role.WORLD)
    u = rng.standard_normal((len(ENTITIES), _FACTORS))
    v = rng.standard_normal((len(PROPERTIES), _FACTORS))
    scale = np.arange(1, _FACTORS + 1) ** -_FACTOR_DECAY
    # Plain einsum adds in one fixed order; a BLAS product may differ in the last bits between machines.
    z = np.einsum("ek,pk->ep", u * scale, v + _MAIN_EFFECT, optimize=False)
    rank = rng.permutation(z.size).reshape(z.shape) + 1.0
    frequency = rank**-_ZIPF_EXPONENT
    truth, frequency = z > np.median(z, axis=0), frequency / frequency.sum()
    truth.flags.writeable = frequency.flags.writeable = False  # shared by every caller of this process
    return World(truth, frequency)


def statement(entity: int, prop: int) -> str:
    """A statement in words, e.g. "Orvale is coastal"."""
    return f"{ENTITIES[entity]} is {PROPERTIES[prop]}"


def read_facts(spec: FactsTask) -> SourceRows:
    """The facts task: 12,800 statements to be judged, or 6,400 pairs of a true and a false one."""
    truth = make_world(spec.world_seed).truth
    if spec.form == "classify":
        rows = [Row(text=statement(e, p), label=int(truth[e, p])) for e, p in np.ndindex(truth.shape)]
    else:
        # Each statement is in one pair only, so that parts stay apart by statement.
        rng = stream(spec.world_seed, Role.WORLD, index=1)
        true, false = (rng.permutation(np.argwhere(truth == value)) for value in (True, False))
        rows = [
            Row(chosen=statement(*right), rejected=statement(*wrong)) for right, wrong in zip(true, false, strict=True)
        ]
    return SourceRows(rows, None, Counter(), {"train": len(rows)}, f"the offline world {spec.world_seed}")
