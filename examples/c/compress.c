/* A key/value cache of 64 tokens, of which 16 stay: those that the latest queries look at. Then attention goes on with them.
 *
 *     cc compress.c $(pkg-config --cflags --libs --static lzpenalty) -o compress
 */
#include <lzpenalty.h>
#include <math.h>
#include <stdio.h>

enum { HEADS = 2, QUERY_HEADS = 4, CAPACITY = 80, TOKENS = 64, RECENT = 4, SIZE = 8, KEPT = 16 };

static float keys[HEADS][CAPACITY][SIZE], values[HEADS][CAPACITY][SIZE];
static float queries[QUERY_HEADS][RECENT][SIZE], before[QUERY_HEADS][RECENT][SIZE], after[QUERY_HEADS][RECENT][SIZE];

static lzpenalty_tensor tensor4(void *data, int64_t heads, int64_t tokens)
{
    int64_t shape[4];
    shape[0] = 1;
    shape[1] = heads;
    shape[2] = tokens;
    shape[3] = SIZE;
    return lzpenalty_contiguous(data, LZPENALTY_FLOAT32, 4, shape);
}

/* Every sixth key points where the queries look; the value of a token is its number. */
static void fill(void)
{
    int head, token, i;
    for (head = 0; head < HEADS; head++)
        for (token = 0; token < TOKENS; token++)
            for (i = 0; i < SIZE; i++) {
                keys[head][token][i] = token % 6 == 0 ? 2.0f : (float)((token * 5 + i * 3) % 7 - 3) / 4.0f;
                values[head][token][i] = (float)token;
            }
    for (head = 0; head < QUERY_HEADS; head++)
        for (token = 0; token < RECENT; token++)
            for (i = 0; i < SIZE; i++)
                queries[head][token][i] = 2.0f;
}

static int check(int status)
{
    if (status != LZPENALTY_OK)
        fprintf(stderr, "%s\n", lzpenalty_strerror(status));
    return status != LZPENALTY_OK;
}

int main(void)
{
    lzpenalty_tensor k = tensor4(keys, HEADS, CAPACITY), v = tensor4(values, HEADS, CAPACITY);
    lzpenalty_tensor q = tensor4(queries, QUERY_HEADS, RECENT), old = tensor4(before, QUERY_HEADS, RECENT);
    lzpenalty_tensor now = tensor4(after, QUERY_HEADS, RECENT), all_scores, chosen, lengths;
    lzpenalty_score_options scoring = lzpenalty_score_options_default();
    lzpenalty_attend_options attending = lzpenalty_attend_options_default();
    const int64_t region = TOKENS - RECENT; /* the latest tokens always stay */
    int64_t length = TOKENS, positions[KEPT], shape[3];
    float scores[TOKENS], largest = 0.0f;
    int i, head, failed = 0;

    fill();
    lengths = lzpenalty_vector(&length, LZPENALTY_INT64, 1);
    attending.lengths = &lengths;
    failed |= check(lzpenalty_attend(&q, &k, &v, &attending, &old));

    scoring.kernel = 1;
    failed |= check(lzpenalty_attention_scores(&q, &k, 0, region, &scoring, scores));
    shape[0] = shape[1] = 1;
    shape[2] = region;
    all_scores = lzpenalty_contiguous(scores, LZPENALTY_FLOAT32, 3, shape);
    failed |= check(lzpenalty_select_top(&all_scores, KEPT, positions));
    shape[2] = KEPT;
    chosen = lzpenalty_contiguous(positions, LZPENALTY_INT64, 3, shape);
    failed |= check(lzpenalty_compact(&k, &v, &chosen, 0, region, length, 0));
    length += KEPT - region;
    failed |= check(lzpenalty_attend(&q, &k, &v, &attending, &now));

    printf("kept %d of %d tokens:", (int)length, TOKENS);
    for (i = 0; i < length; i++)
        printf(" %d", (int)values[0][i][0]);
    for (head = 0; head < QUERY_HEADS; head++)
        for (i = 0; i < SIZE; i++)
            largest = fmaxf(largest, fabsf(after[head][RECENT - 1][i] - before[head][RECENT - 1][i]));
    printf("\nattention's output changed by %s\n", largest < 1e-3f ? "nothing" : "something");
    return failed || !(largest < 1e-3f);
}
