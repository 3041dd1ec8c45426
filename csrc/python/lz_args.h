/* Arguments that the bindings of the LZ routines share. */
#ifndef LZPENALTY_PYTHON_LZ_ARGS_H
#define LZPENALTY_PYTHON_LZ_ARGS_H

#include "args.h"
#include "tensor.h"

/* From this many row-tokens on, the work outlasts what it costs to release the GIL. */
enum { GIL_MIN_WORK = 4096 };

/* One dimension, or two with `columns` in the last. Returns 0, or -1 with an exception. */
int check_rows(const tensor *t, const char *columns);

/* Logits [batch, V] or [V] that can be written to, borrowed into *t. Returns 0, or -1 with an exception. */
int take_logits(module_state *st, PyObject *object, tensor *t, lz_logits *logits);

/* The coder's options: window, buffer, cost, min_match, min_count. Returns 0, or -1 with an exception. */
int arg_coder(PyObject *const *values, lz_coder *coder);

const char *cost_name(lz_cost cost);

#define CODER_DOC                                                                                                           \
    "window : int, default 512\n"                                                                                           \
    "    Tokens back that a match may start; 0 switches the penalty off.\n"                                                 \
    "buffer : int, default 32\n"                                                                                            \
    "    Tokens that a match may count, >= 1.\n"                                                                            \
    "cost : {'lzss', 'pair', 'distance'}\n"                                                                                 \
    "    What a token of the window costs. 'lzss': the paper's three cases. 'pair': bits of the (distance, length) pair\n"  \
    "    per token it covers. 'distance': log2 of the distance of the longest match.\n"                                     \
    "min_match : int, default 1\n"                                                                                          \
    "    Occurrences whose match, with the token itself, is shorter count as absent.\n"                                     \
    "min_count : int, default 1\n"                                                                                          \
    "    Tokens with fewer such occurrences count as absent: with 2, the first repetition of anything is free.\n"

#define EXTRAS_DOC                                                                                                          \
    "escalation : float, default 0.0\n"                                                                                     \
    "    In a text that has repeated itself with period d for L > max(buffer, d) tokens, the token that goes on with it\n"  \
    "    pays escalation * log2 V * (L / max(buffer, d) - 1) bits more.\n"                                                  \
    "horizon : int, default 0\n"                                                                                            \
    "    Tokens. If > 0 the strength is 2 * strength * rho, with rho the share of the last `horizon` tokens whose 4-gram\n" \
    "    stood within the window before.\n"                                                                                 \
    "neutral : iterable of int, int, or None\n"                                                                             \
    "    Ids that neither lose nor gain: they pay the mean penalty of the window's tokens.\n"

#endif
