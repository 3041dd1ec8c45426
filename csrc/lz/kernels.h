/* All LZ kernels of one instruction-set level, as the table KERNELS.
 *
 * Each level's file includes this once: the bodies are plain C that the compiler vectorises for the level, so that all
 * levels compute the same numbers by construction. */
#include "match.h"
#include "tokens.h"
#include "distinct.h"
#include "codelength.h"
#include "evidence.h"
#include "marks.h"
#include "penalty.h"
#include "dry.h"
#include "period.h"

const lz_kernels KERNELS = {
    .penalize = penalize, .dry = dry, .deltas = deltas, .token_bits = token_bits, .periods = periods, .evidence = evidence};
