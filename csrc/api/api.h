/* What the files of the C interface share: they check what callers give and call the kernels; no arithmetic is done here.
 * Functions return an lzpenalty_status. */
#ifndef LZPENALTY_API_API_H
#define LZPENALTY_API_API_H

#include "../cpu/dtype.h"
#include "../include/lzpenalty.h"
#include "../lz/lz.h"

_Static_assert((int)LZPENALTY_FLOAT32 == (int)FLOAT32 && (int)LZPENALTY_FLOAT16 == (int)FLOAT16 &&
                   (int)LZPENALTY_BFLOAT16 == (int)BFLOAT16 && (int)LZPENALTY_FLOAT64 == (int)FLOAT64,
               "types are numbered alike here and there");

struct lzpenalty_workspace {
    lz_workspace lz;
};

/* Returns from the calling function if something is wrong. */
#define CHECK(call)                                                                                                         \
    do {                                                                                                                    \
        const int status_ = (call);                                                                                         \
        if (status_ != LZPENALTY_OK)                                                                                        \
            return status_;                                                                                                 \
    } while (0)
#define WANT(condition, status)                                                                                             \
    do {                                                                                                                    \
        if (!(condition))                                                                                                   \
            return (status);                                                                                                \
    } while (0)

/* A struct of options as this library knows it: what the caller gave, and defaults behind it. */
int api_read_options(const lzpenalty_options *given, lzpenalty_options *options);
int api_read_dry_options(const lzpenalty_dry_options *given, lzpenalty_dry_options *options);
int api_read_loop_options(const lzpenalty_loop_options *given, lzpenalty_loop_options *options);
int api_read_score_options(const lzpenalty_score_options *given, lzpenalty_score_options *options);
int api_read_attend_options(const lzpenalty_attend_options *given, lzpenalty_attend_options *options);

/* The options of the penalty, compiled: with ids of a vocabulary of this size, or of any with INT64_MAX. */
int api_read_penalty(const lzpenalty_options *given, int64_t vocab, lz_penalty *p);

/* What is wanted of the option that a status names, NULL if it names none. */
const char *api_option_error(int status);

/* Whether a tensor's description makes sense and has so many dimensions. */
int api_check_tensor(const lzpenalty_tensor *t, int least_dims, int most_dims);

/* That no two indices name the same item. */
int api_check_distinct(const lzpenalty_tensor *t);

/* That what is written to is not read through another tensor. Exact for tensors of the same strides and type, as of one
 * buffer that holds keys and values; others must not even span the same memory. */
int api_check_apart(const lzpenalty_tensor *written, const lzpenalty_tensor *read);

/* That the last dimension has a stride of 1. */
int api_check_contiguous(const lzpenalty_tensor *t);

int64_t api_items(const lzpenalty_tensor *t);
int64_t api_item_size(int32_t dtype);

/* How many threads are to be used where `wanted` were asked for. */
int api_threads(int32_t wanted, int *threads);

#endif
