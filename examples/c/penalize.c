/* A toy model that loops, and no longer does: it has learned one sentence by heart, and of six words what comes next.
 *
 *     cc penalize.c $(pkg-config --cflags --libs --static lzpenalty) -o penalize
 */
#include <lzpenalty.h>
#include <stdio.h>

enum { VOCAB = 12, LENGTH = 48 };

static const char *const words[VOCAB] = {"the",  "sea",  "is",  "wide", "and",  "deep",
                                         "blue", "cold", "old", "calm", "loud", "green"};

/* Logits of what may follow a word: the sentence goes round in a circle of six, and a few other words would do as well. */
static void think(int32_t last, float *logits)
{
    int32_t word;
    for (word = 0; word < VOCAB; word++)
        logits[word] = (float)((word * 7 + last * 5) % 11) / 10.0f;
    logits[(last + 1) % 6] = 4.0f;
}

static int32_t most_likely(const float *logits)
{
    int32_t word, best = 0;
    for (word = 1; word < VOCAB; word++)
        if (logits[word] > logits[best])
            best = word;
    return best;
}

/* Writes a text, and prints it and the period of the loop that it ends with. Returns that, 0 for none, or -1. */
static int64_t write_text(lzpenalty_workspace *ws, const lzpenalty_options *options, const char *title)
{
    int32_t text[LENGTH] = {0};
    float logits[VOCAB];
    lzpenalty_tensor tokens = lzpenalty_vector(text, LZPENALTY_INT32, LENGTH);
    int64_t period = -1;
    int n, status;
    printf("%s:\n ", title);
    for (n = 1; n < LENGTH; n++) {
        think(text[n - 1], logits);
        status = lzpenalty_penalize_row(ws, options, logits, VOCAB, text, n);
        if (status != LZPENALTY_OK) {
            fprintf(stderr, "%s\n", lzpenalty_strerror(status));
            return -1;
        }
        text[n] = most_likely(logits);
    }
    for (n = 0; n < LENGTH; n++)
        printf(" %s", words[text[n]]);
    status = lzpenalty_repetition_period(ws, &tokens, NULL, 6, 3, 16, &period);
    printf("\n  period: %d\n", (int)period);
    return status == LZPENALTY_OK ? period : -1;
}

int main(void)
{
    lzpenalty_workspace *ws = lzpenalty_workspace_create();
    lzpenalty_options options = lzpenalty_options_default();
    int64_t before, after;
    options.strength = 0.0f;
    before = write_text(ws, &options, "Without the penalty");
    options.strength = 1.0f;
    after = write_text(ws, &options, "With a strength of 1 nat a bit");
    lzpenalty_workspace_destroy(ws);
    return before == 6 && after == 0 ? 0 : 1;
}
