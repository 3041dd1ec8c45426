/* How one call's working memory is laid out inside an lz_workspace. */
#ifndef LZPENALTY_LZ_SCRATCH_H
#define LZPENALTY_LZ_SCRATCH_H

#include "lz.h"

/* The `length` tokens before position `distance` are the `length` tokens that end the text. */
typedef struct {
    int32_t distance, length;
} lz_match;

typedef struct {
    int32_t context; /* tokens that a call looks back at: the window and what is compared before it */
    int32_t window;  /* positions at which a match may start */
    int32_t list;    /* tokens that a row may charge */
    int32_t keys;    /* entries of the hash table, tokens or n-grams */
} lz_sizes;

/* Lists that are appended to a vector at a time are longer than their contents by up to one vector. */
enum { LZ_SLACK = 16 };

typedef struct {
    int32_t *recent;                   /* [context] tokens, newest first */
    lz_match *matches;                 /* [window] nearest first */
    int32_t *tokens;                   /* [window] what follows each match that counts */
    int32_t *longest;                  /* [window] longest match of each of ... */
    int32_t *ids;                      /* [list] ... the tokens that are charged, each once */
    float *bits;                       /* [window] their code lengths */
    float *gains;                      /* [list] their penalties, in bits */
    double *saved;                     /* [list] their logits before any was changed, in the logits' own dtype */
    uint32_t *first, *owner, *pending; /* [window + LZ_SLACK] what distinct.h finds out */
    uint32_t *table;                   /* [n_table] hash table, a power of two */
    uint32_t *hashes;                  /* [keys] of the n-grams */
    int32_t n_table;
} lz_scratch;

/* Items that a list may have, so that sums of two positions fit 32 bits and a hash table is never full. */
enum { LZ_MOST = (1 << 30) - 1 };

/* What a call with these options needs on rows of `length` tokens; more than LZ_MOST of anything can't be reserved. */
lz_sizes lz_penalty_sizes(const lz_penalty *penalty, int64_t length);
lz_sizes lz_dry_sizes(const lz_dry *dry, int64_t length);
lz_sizes lz_loop_sizes(const lz_loop *loop, int64_t length);
lz_sizes lz_evidence_sizes(const lz_evidence *evidence, int64_t length);

/* Cuts a block into the arrays. Returns the bytes they take; with block == NULL it only counts them. */
size_t lz_lay_out(void *block, lz_sizes sizes, lz_scratch *scratch);

#endif
