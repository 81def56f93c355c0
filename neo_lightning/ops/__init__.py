"""The model's heavy operations: one folder each, a `reference.py` that defines it, and one function in `__init__.py`.

Shape letters of this package (a name's suffix lists its axes):

    T  tokens of a packed row         D  width of a query or key: [T | H | W] = 2 * head_dim
    H  query heads                    E  width of a value: head_dim; of a hidden state where no heads are around
    K  key/value heads (H = K * G)    N  rows of a flat matrix          V  vocabulary
"""
