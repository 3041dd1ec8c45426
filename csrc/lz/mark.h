/* What marks and evidence say about the end of a text, for CPU and CUDA alike. */
#ifndef LZPENALTY_LZ_MARK_H
#define LZPENALTY_LZ_MARK_H

#include "../cpu/shared.h"
#include "options.h"

/* The id of a mark that is due after n tokens, newest first: the one that follows the longest beginning of the mark that
 * ends the text. */
SHARED_FUNCTION int32_t due_id(const lz_mark *mark, const int32_t *recent, int32_t n)
{
    for (int32_t begun = mark->n - 1 < n ? mark->n - 1 : n; begun > 0; begun--) {
        int32_t k = 0;
        while (k < begun && recent[k] == mark->id[begun - 1 - k])
            k++;
        if (k == begun)
            return mark->id[begun];
    }
    return mark->id[0];
}

/* What an id that is due gains after so many tokens, in nats; never more than LZ_MOST_RELEASE. */
#define LZ_MOST_RELEASE 20.0f
SHARED_FUNCTION float release_nats(const lz_penalty *p, int32_t steps)
{
    const float nats = p->release_rate * (float)steps;
    return nats < LZ_MOST_RELEASE ? nats : LZ_MOST_RELEASE;
}

/* What the strength is multiplied by in an open section of thinking, and elsewhere; {0, 0} is nothing. */
SHARED_FUNCTION lz_range gate_of(const lz_penalty *p, int is_open)
{
    return is_open && p->section_gate.to > 0 ? p->section_gate : p->gate;
}

/* The share of the strength that a gate lets through at so much evidence. */
SHARED_FUNCTION float gate_share(lz_range gate, int32_t evidence)
{
    const float share = ((float)evidence - gate.from) / (gate.to - gate.from);
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
