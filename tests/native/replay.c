/* Runs the kernels on recorded cases at every level of this machine and compares bit for bit: under valgrind, or on another
 * architecture (tests/native/record.py writes the cases). Prints a line and exits with 1 on the first difference. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../csrc/lz/lz.h"

static FILE *file;

static void *read_items(size_t count, size_t size)
{
    void *items = malloc(count * size + 1);
    if (!items || fread(items, size, count, file) != count) {
        fprintf(stderr, "replay: the file ends early\n");
        exit(2);
    }
    return items;
}

static int32_t read_int(void)
{
    int32_t *item = read_items(1, sizeof *item), value = *item;
    free(item);
    return value;
}

static float read_float(void)
{
    float *item = read_items(1, sizeof *item), value = *item;
    free(item);
    return value;
}

static void expect(const char *what, int at, const void *got, const void *wanted, size_t size)
{
    if (memcmp(got, wanted, size) == 0)
        return;
    fprintf(stderr, "replay: case %d: %s differs at level %s\n", at, what, cpu_level_name(cpu_current_level()));
    exit(1);
}

int main(int argc, char **argv)
{
    static const int32_t neutral[] = {1}, breakers[] = {3};
    int cases = 0;
    if (argc != 2 || !(file = fopen(argv[1], "rb"))) {
        fprintf(stderr, "usage: replay FILE\n");
        return 2;
    }
    for (int first; (first = fgetc(file)) != EOF; cases++) {
        ungetc(first, file);
        int32_t length = read_int(), vocab = read_int();
        int64_t *ids64 = read_items((size_t)length, sizeof *ids64);
        size_t row_size = (size_t)vocab * sizeof(float);
        float *before = read_items((size_t)vocab, sizeof *before), *row = malloc(row_size);
        lz_penalty p = {.coder = {.cost = (lz_cost)read_int()}, .neutral = neutral};
        p.coder.window = read_int(), p.coder.buffer = read_int(), p.coder.min_match = read_int();
        p.coder.min_count = read_int();
        p.strength = read_float(), p.escalation = read_float();
        p.horizon = read_int(), p.n_neutral = read_int();
        float *penalized = read_items((size_t)vocab, sizeof *penalized);
        int32_t n = read_int(), *ids = read_items((size_t)n, sizeof *ids);
        float *bits = read_items((size_t)n, sizeof *bits);
        lz_dry dry = {.breakers = breakers};
        dry.multiplier = read_float(), dry.base = read_float();
        dry.allowed_length = read_int(), dry.window = read_int(), dry.n_breakers = read_int();
        float *dried = read_items((size_t)vocab, sizeof *dried);
        lz_loop loop;
        loop.ngram = read_int(), loop.count = read_int(), loop.max_period = read_int();
        int64_t period = read_int(), got_period;

        lz_tokens tokens = {.data = ids64, .is_int64 = 1, .rows = 1, .length = length, .column_stride = 1};
        lz_logits logits = {.data = row, .dtype = FLOAT32, .rows = 1, .vocab = vocab, .column_stride = 1};
        for (int level = 0; level < CPU_LEVELS; level++) {
            if (cpu_set_level((cpu_level)level) < 0)
                continue;
            const lz_kernels *kernels = lz_current_kernels();
            lz_workspace ws = {0};
            int32_t *got_ids;
            float *got_bits;
            if (lz_reserve(&ws, &p, length) < 0 || lz_reserve_dry(&ws, &dry, length) < 0 ||
                lz_reserve_loop(&ws, &loop, length) < 0)
                return 2;
            memcpy(row, before, row_size);
            if (p.coder.window > 0)
                kernels->penalize(&p, &logits, &tokens, &ws);
            expect("penalize", cases, row, penalized, row_size);
            int32_t got_n = kernels->deltas(&p.coder, vocab, &tokens, &ws, &got_ids, &got_bits);
            expect("the number of deltas", cases, &got_n, &n, sizeof n);
            expect("ids of deltas", cases, got_ids, ids, (size_t)n * sizeof *ids);
            expect("bits of deltas", cases, got_bits, bits, (size_t)n * sizeof *bits);
            memcpy(row, before, row_size);
            if (dry.window > 0)
                kernels->dry(&dry, &logits, &tokens, &ws);
            expect("dry", cases, row, dried, row_size);
            kernels->periods(&loop, &tokens, &got_period, &ws);
            expect("the period", cases, &got_period, &period, sizeof period);
            lz_workspace_clear(&ws);
        }
        free(ids64), free(before), free(row), free(penalized), free(ids), free(bits), free(dried);
    }
    fclose(file);
    printf("replay: %d cases agree at every level\n", cases);
    return 0;
}
