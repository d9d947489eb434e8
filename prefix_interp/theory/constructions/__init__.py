"""Transformers built by hand that a soft prompt can make do anything (the paper's section 3).

Each function returns a `Construction`: a real `HookedTransformer`, the soft prompt for every
behaviour, and the smallest inverse temperature that is proved to work. Codes are 0-based.
"""

from prefix_interp.theory.constructions.construction import Construction as Construction
from prefix_interp.theory.constructions.maps import any_map as any_map
from prefix_interp.theory.constructions.maps import any_map_to_sequences as any_map_to_sequences
from prefix_interp.theory.constructions.pairs import any_map_of_pairs as any_map_of_pairs
from prefix_interp.theory.constructions.precision import largest_vocabulary as largest_vocabulary
from prefix_interp.theory.constructions.sequences import any_sequence as any_sequence
