/* See tap.h. */
#include "tap.h"

#include <string.h>

/* The layer of a node "kq_soft_max-<layer>", or -1 for another. */
static int layer_of(const char *name)
{
    static const char prefix[] = "kq_soft_max-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0)
        return -1;
    const char *digit = name + sizeof prefix - 1;
    int layer = 0;
    if (!*digit)
        return -1;
    for (; *digit; digit++) {
        if (*digit < '0' || *digit > '9' || layer > 99999)
            return -1;
        layer = 10 * layer + (*digit - '0');
    }
    return layer;
}

/* One row: the attention of one query and head to all cells up to the last one in use. */
static void count_row(attention_tap *tap, const float *row)
{
    float sum = 0;
    for (int64_t i = 0; i < tap->region; i++)
        sum += tap->weights[i] = row[tap->cells[i]];
    const float scale = sum > 0 ? 1 / sum : 0;
    for (int64_t i = 0; i < tap->region; i++)
        tap->scores[i] += scale * tap->weights[i];
}

static int32_t count_node(attention_tap *tap, const void *tensor, bool first_layer)
{
    const int64_t elements = tap->elements(tensor), rows = tap->rows(tensor);
    if (rows <= 0 || elements <= 0)
        return TAP_FINE;
    const int64_t cells = elements / rows;
    if (tap->bytes(tensor) != (size_t)elements * sizeof(float))
        return TAP_NOT_FLOAT;
    if (!tap->contiguous(tensor))
        return TAP_NOT_CONTIGUOUS;
    if (cells > tap->size || cells > tap->room)
        return TAP_TOO_LARGE;
    for (int64_t i = 0; i < tap->region; i++)
        if (tap->cells[i] < 0 || tap->cells[i] >= cells)
            return TAP_NO_SUCH_CELL;
    const int64_t at_once = tap->room / cells, row_bytes = cells * (int64_t)sizeof(float);
    for (int64_t done = 0; done < rows; done += at_once) {
        const int64_t n = rows - done < at_once ? rows - done : at_once;
        tap->read(tensor, tap->buffer, (size_t)(done * row_bytes), (size_t)(n * row_bytes));
        for (int64_t r = 0; r < n; r++) {
            const float *row = tap->buffer + r * cells;
            count_row(tap, row);
            for (int64_t i = 0; first_layer && i < cells; i++)
                tap->seen[i] += row[i];
        }
    }
    tap->votes += rows;
    return TAP_FINE;
}

bool cache_tap(const void *tensor, bool ask, void *user)
{
    attention_tap *tap = user;
    if (!tap->armed || tap->status != TAP_FINE)
        return !ask;
    const int layer = layer_of(tap->name(tensor));
    if (ask)
        return layer >= 0;
    if (layer >= 0)
        tap->status = count_node(tap, tensor, layer == 0);
    return true; /* false would end the computation in the middle */
}
