/* The most float32 multiply-adds that one core does, in independent chains that stay in registers, and the most that it
 * reads. */
#if defined(__AVX512F__)
typedef float vec __attribute__((vector_size(64)));
#elif defined(__AVX2__)
typedef float vec __attribute__((vector_size(32)));
#else
typedef float vec __attribute__((vector_size(16)));
#endif

enum { CHAINS = 12, LANES = sizeof(vec) / sizeof(float) };

/* Returns how many operations it did, two for each multiply-add. */
double multiply_add(long times, float *kept)
{
    vec chains[CHAINS], factor = {0}, term = {0};
    for (int i = 0; i < LANES; i++)
        factor[i] = kept[0], term[i] = kept[1];
    for (int i = 0; i < CHAINS; i++)
        chains[i] = term;
    for (long t = 0; t < times; t++)
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            chains[i] = chains[i] * factor + term;
    for (int i = 0; i < CHAINS; i++)
        kept[0] += chains[i][0];
    return 2.0 * (double)times * CHAINS * LANES;
}

/* Reads that many numbers, a multiple of 8 vectors, and does as little with them as possible. */
float read_numbers(const float *numbers, long count)
{
    vec sums[8] = {{0}};
    for (long i = 0; i + 8 * LANES <= count; i += 8 * LANES)
        for (int j = 0; j < 8; j++)
            sums[j] += *(const vec *)(const void *)(numbers + i + j * LANES);
    for (int j = 1; j < 8; j++)
        sums[0] += sums[j];
    return sums[0][0];
}
