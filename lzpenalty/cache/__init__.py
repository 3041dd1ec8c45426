"""Cache selection: a key/value cache that keeps what will be asked for again.

    plan        when a compression is due and how many tokens stay; needs no torch, so engines use it as well
    selectors   what to keep: a file for each published rule
    masks       what new tokens see; text, where the prompt ends and what is no part of it
    attention   how a cache gets to see a model's attention; attend, what is computed in its place; rotary, a look at it
    layer       the keys and values of one layer; even, ragged and rows are those from which entries are dropped
    budgets     how many entries each key head keeps
    base        what all caches have in common; compressed, rpc and forget are the caches, for transformers

Importing this package imports none of them.
"""
