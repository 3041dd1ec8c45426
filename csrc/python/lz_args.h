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

/* The penalty's options, in the order in which arg_penalty takes them; CODER_NAMES are the first. */
#define CODER_NAMES NAME(window), NAME(buffer), NAME(cost), NAME(min_match), NAME(min_count)
#define PENALTY_NAMES                                                                                                       \
    CODER_NAMES, NAME(strength), NAME(escalation), NAME(horizon), NAME(gate), NAME(release_rate), NAME(release_after),      \
        NAME(neutral), NAME(release), NAME(reset), NAME(until)
enum { N_CODER = 5, N_PENALTY = 15 };

/* Everything but ids, and ids, once it is known which there are: [0, limit). Return 0, or -1 with an exception. */
int arg_penalty(PyObject *const *values, lz_penalty *penalty);
int arg_penalty_ids(PyObject *const *values, int32_t limit, lz_workspace *ws, lz_penalty *penalty);

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
    "    Ids that neither lose nor gain: they pay the mean penalty of the window's tokens.\n"                               \
    "gate : (from, to), or None\n"                                                                                          \
    "    Tokens, 0 <= from < to. The strength is multiplied by clip((evidence - from) / (to - from), 0, 1), where "         \
    "evidence\n"                                                                                                            \
    "    is the loop_evidence of the window: nothing happens to a text in which nothing stands for the third time.\n"       \
    "release : iterable of int or of iterables of int, int, or None\n"                                                      \
    "    What closes a loop, such as the ids of '</think>': each an id or a sequence of at most 8 ids, at most 16 of "      \
    "them.\n"                                                                                                               \
    "    From the token on with which the window's evidence reached release_after, the id that is due of each gains\n"      \
    "    min(20, release_rate * s) nats, s = 1 for that token and one more with each that follows. Due is the id that\n"    \
    "    follows the longest beginning of the sequence that ends the text. Once one of them stands complete in the text\n"  \
    "    since then, none gains.\n"                                                                                         \
    "release_rate : float, default 2.0\n"                                                                                   \
    "    Nats a token, >= 0.\n"                                                                                             \
    "release_after : int, default 24\n"                                                                                     \
    "    Evidence, in tokens, >= 1.\n"                                                                                      \
    "reset : as release\n"                                                                                                  \
    "    What stands before the last of these, itself included, doesn't count.\n"                                           \
    "until : as release\n"                                                                                                  \
    "    A text that holds one of these is left alone. The whole text is looked at, a comparison for each token.\n"

#endif
