/* What marks say about the end of a text, for CPU and CUDA alike. A mark that ends at position i stands in
 * recent[i .. i + n), newest first. */
#ifndef LZPENALTY_LZ_MARK_H
#define LZPENALTY_LZ_MARK_H

#include "../cpu/shared.h"
#include "options.h"

/* Whether the first `size` ids of a mark end at position i of n tokens. */
SHARED_FUNCTION int ends_mark(const lz_mark *mark, int32_t size, const int32_t *recent, int32_t n, int32_t i)
{
    int32_t k = 0;
    if (size > n - i)
        return 0;
    while (k < size && recent[i + k] == mark->id[size - 1 - k])
        k++;
    return k == size;
}

/* The id of a mark that is due: the one that follows the longest beginning of the mark that ends the text. */
SHARED_FUNCTION int32_t due_id(const lz_mark *mark, const int32_t *recent, int32_t n)
{
    int32_t begun = mark->n - 1;
    while (begun > 0 && !ends_mark(mark, begun, recent, n, 0))
        begun--;
    return mark->id[begun];
}

/* What an id that is due gains after so many tokens, in nats; never more than LZ_MOST_RELEASE. */
#define LZ_MOST_RELEASE 20.0f
SHARED_FUNCTION float release_nats(const lz_penalty *p, int32_t steps)
{
    const float nats = p->release_rate * (float)steps;
    return nats < LZ_MOST_RELEASE ? nats : LZ_MOST_RELEASE;
}

/* The share of the strength that the gate lets through at so much evidence. */
SHARED_FUNCTION float gate_share(const lz_penalty *p, int32_t evidence)
{
    const float share = ((float)evidence - p->gate.from) / (p->gate.to - p->gate.from);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* Whether an id stands in an ascending list. */
SHARED_FUNCTION int is_listed(const int32_t *ids, int32_t n, int32_t id)
{
    int32_t low = 0, high = n;
    while (low < high) {
        const int32_t middle = low + (high - low) / 2;
        if (ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low < n && ids[low] == id;
}

#endif
