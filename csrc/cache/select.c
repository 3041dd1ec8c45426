/* The k highest scores of a row, found digit by digit as in a radix sort, without sorting: O(n) whatever the scores. They
 * are read several times, and another thread that writes to them meanwhile gets positions without meaning, but positions. */
#include <string.h>

#include "cache.h"
#include "rank.h"

/* The rank of the k-th highest score. *at_least gets how many scores are above it. */
static uint32_t kth_rank(const float *scores, int64_t n, int64_t k, int64_t *above)
{
    enum { DIGIT = 11, DIGITS = 1 << DIGIT };
    uint32_t known = 0, mask = 0;
    *above = 0;
    for (int shift = 32 - DIGIT; mask != ~0u; shift = shift > DIGIT ? shift - DIGIT : 0) {
        int64_t counts[DIGITS] = {0};
        const uint32_t digit_mask = ~mask >> shift & (DIGITS - 1);
        for (int64_t t = 0; t < n; t++) {
            uint32_t rank = rank_of(scores[t]);
            if ((rank & mask) == known)
                counts[rank >> shift & digit_mask]++;
        }
        uint32_t digit = digit_mask;
        while (digit > 0 && *above + counts[digit] < k)
            *above += counts[digit--];
        known |= digit << shift;
        mask |= digit_mask << shift;
    }
    return known;
}

void cache_select_top(const float *scores, int64_t rows, int64_t n, int64_t row_stride, int64_t k, int64_t *positions)
{
    for (int64_t row = 0; row < rows; row++, scores += row_stride, positions += k) {
        int64_t above, found = 0;
        const uint32_t kth = kth_rank(scores, n, k, &above);
        int64_t ties = k - above;
        for (int64_t t = 0; found < k; t++) {
            uint32_t rank = rank_of(scores[t]);
            if (rank > kth || (rank == kth && ties-- > 0) || n - t == k - found)
                positions[found++] = t;
        }
    }
}
