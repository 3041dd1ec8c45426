/* After a call on the longest text, penalties and their readings allocate nothing: allocations are counted by the linker's
 * --wrap. */
#include <lzpenalty.h>
#include <stdio.h>
#include <stdlib.h>

enum { VOCAB = 500, MOST = 2000 };

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *memory, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *memory, size_t size);

static int allocations;

void *__wrap_malloc(size_t size)
{
    allocations++;
    return __real_malloc(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    allocations++;
    return __real_calloc(n, size);
}

void *__wrap_realloc(void *memory, size_t size)
{
    allocations++;
    return __real_realloc(memory, size);
}

int main(void)
{
    static float logits[VOCAB];
    static int32_t text[MOST];
    static const int32_t breakers[3] = {7, 3, 5};
    static const lzpenalty_mark release = {2, {8, 9}};
    static int32_t ids[512];
    static float bits[512];
    lzpenalty_workspace *ws = lzpenalty_workspace_create();
    lzpenalty_options plain = lzpenalty_options_default(), rich = lzpenalty_options_default();
    lzpenalty_dry_options dry = lzpenalty_dry_options_default();
    const lzpenalty_tensor row = lzpenalty_vector(logits, LZPENALTY_FLOAT32, VOCAB);
    int before = 0, failed = 0;
    for (int i = 0; i < MOST; i++)
        text[i] = (i % 70) * (i % 70) % VOCAB;
    rich.release = (lzpenalty_marks){&release, 1};
    rich.gate.to = 20;
    dry.sequence_breakers = breakers;
    dry.n_sequence_breakers = 3;
    for (int n = MOST; n > MOST - 300; n--) {
        const lzpenalty_tensor tokens = lzpenalty_vector(text, LZPENALTY_INT32, n);
        int64_t number, count;
        failed |= lzpenalty_penalize_row(ws, &plain, logits, VOCAB, text, n);
        failed |= lzpenalty_penalize_row(ws, &rich, logits, VOCAB, text, n);
        failed |= lzpenalty_dry(ws, &dry, &row, &tokens, NULL);
        failed |= lzpenalty_loop_evidence(ws, &tokens, NULL, 6, 512, &number);
        failed |= lzpenalty_repetition_period(ws, &tokens, NULL, 30, 20, 512, &number);
        failed |= lzpenalty_code_lengths(ws, &plain, VOCAB, &tokens, ids, bits, 512, &count);
        if (n == MOST)
            before = allocations;
    }
    printf("%d allocations in the first round, %d after it\n", before, allocations - before);
    lzpenalty_workspace_destroy(ws);
    return failed || before == 0 || allocations != before;
}
