/* What the statuses say, the version, and the level of instructions. */
#include <string.h>

#include "../cpu/level.h"
#include "../cpu/threads.h"
#include "api.h"

const char *lzpenalty_strerror(int status)
{
    const char *option = api_option_error(status);
    if (option)
        return option;
    switch (status) {
    case LZPENALTY_OK:
        return "success";
    case LZPENALTY_NO_MEMORY:
        return "there is not enough memory";
    case LZPENALTY_NULL:
        return "expected a pointer, got NULL";
    case LZPENALTY_BAD_SIZE:
        return "size: expected that of a struct of options whose fields this library knows, or zeros in others; "
               "lzpenalty_..._default sets it";
    case LZPENALTY_BAD_LEVEL:
        return "level: expected the name of one that this machine has, or NULL";
    case LZPENALTY_BAD_THREADS:
        return "threads: expected 0 or more";
    case LZPENALTY_TOO_LITTLE_ROOM:
        return "room: expected as much as there are results, which count says";
    case LZPENALTY_NOT_FINITE:
        return "queries, keys: expected finite numbers and products, got NaN or infinity";
    case LZPENALTY_BAD_DTYPE:
        return "dtype: expected one that the function is documented to take, the same in all tensors of a cache";
    case LZPENALTY_BAD_DIMENSIONS:
        return "dims: expected as many as the function is documented to take";
    case LZPENALTY_BAD_SHAPE:
        return "shape: expected sizes from 0, or 1 where something has to be there, to 2^31 - 1";
    case LZPENALTY_BAD_STRIDES:
        return "strides: expected items that don't overlap where they are written, in reach, and next to each other in the "
               "last dimension of a cache";
    case LZPENALTY_BAD_ALIGNMENT:
        return "data: expected the alignment of its type";
    case LZPENALTY_DISAGREE:
        return "shape: expected tensors of sizes that agree with each other";
    case LZPENALTY_OVERLAP:
        return "data: expected memory that is written to apart from that of all else";
    case LZPENALTY_BAD_TOKENS:
        return "tokens: expected fewer than 2^30";
    case LZPENALTY_BAD_STARTS:
        return "starts: expected positions in the tokens, or slots in the keys, and with attention only where keys are "
               "[slots, size]";
    case LZPENALTY_BAD_VOCAB:
        return "vocab: expected 1 to 2^31 - 1 ids";
    case LZPENALTY_BAD_MULTIPLIER:
        return "multiplier: expected a finite number >= 0";
    case LZPENALTY_BAD_BASE:
        return "base: expected a finite number > 0";
    case LZPENALTY_BAD_ALLOWED_LENGTH:
        return "allowed_length: expected 1 token or more";
    case LZPENALTY_BAD_BREAKERS:
        return "sequence_breakers: expected ids >= 0, and n_sequence_breakers >= 0";
    case LZPENALTY_BAD_NGRAM:
        return "ngram: expected 1 token or more";
    case LZPENALTY_BAD_COUNT:
        return "count: expected 2 or more";
    case LZPENALTY_BAD_MAX_PERIOD:
        return "max_period: expected 1 token or more; 0 where it means any";
    case LZPENALTY_BAD_GRAM:
        return "gram: expected 1 to 64 tokens";
    case LZPENALTY_BAD_MIN_REPEATS:
        return "min_repeats: expected 2 or more";
    case LZPENALTY_BAD_TOLERANCE:
        return "tolerance: expected a share of 0 or more and less than 1";
    case LZPENALTY_BAD_REGION:
        return "start, stop, length, position: expected positions in this order and within the cache";
    case LZPENALTY_BAD_KERNEL:
        return "kernel: expected an odd number >= 1";
    case LZPENALTY_BAD_SCALE:
        return "scale: expected a finite number";
    case LZPENALTY_BAD_SOFTCAP:
        return "softcap: expected a finite number >= 0";
    case LZPENALTY_BAD_K:
        return "k: expected 1 to the number of scores of a row";
    case LZPENALTY_BAD_POSITIONS:
        return "positions: expected strictly ascending ones in [0, stop - start)";
    case LZPENALTY_BAD_LENGTHS:
        return "lengths: expected 0 to the tokens of keys for each row and head; they are needed where keys are "
               "[slots, size]";
    case LZPENALTY_BAD_PADS:
        return "pads: expected 0 to the tokens of keys for each row";
    case LZPENALTY_BAD_AGGREGATION:
        return "aggregation: expected LZPENALTY_BY_LAYER or LZPENALTY_BY_GROUP";
    }
    return "an unknown status";
}

int lzpenalty_version(void)
{
    return LZPENALTY_VERSION;
}

const char *lzpenalty_cpu_level(void)
{
    return cpu_level_name(cpu_current_level());
}

int lzpenalty_set_cpu_level(const char *level)
{
    for (int i = CPU_LEVELS - 1; i >= 0; i--)
        if ((!level || strcmp(level, cpu_level_name((cpu_level)i)) == 0) && cpu_set_level((cpu_level)i) == 0)
            return LZPENALTY_OK;
    return LZPENALTY_BAD_LEVEL;
}

int api_threads(int32_t wanted, int *threads)
{
    WANT(wanted >= 0, LZPENALTY_BAD_THREADS);
    *threads = wanted > 0 ? wanted : cpu_thread_count();
    return LZPENALTY_OK;
}
