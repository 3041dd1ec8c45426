"""Cache selection: a key/value cache that keeps what will be asked for again.

    plan        when a compression is due and how many tokens stay; needs no torch, so engines use it as well
    selectors   what to keep: a file for each published rule
    layer       the keys and values of one layer
    attention   how a cache gets to see queries
    rpc         the cache of all layers, for transformers
    rows        a layer whose rows have lengths of their own
    forget      the cache that drops thoughts which a model has summed up

Importing this package imports none of them.
"""
