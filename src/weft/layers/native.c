/* Loops of a training step that cost torch several passes over memory; native.py says what each computes, builds and
   calls them. Rows are contiguous; B, N, U, E are lengths as in native.py. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>

#define DIGIT 11
#define BUCKETS (1 << DIGIT)
#define AHEAD 12

static inline float wide(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static inline uint16_t narrow(float f) { /* round to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/* Stable sort of places by id: order[i] is the place in ids of the i-th smallest. Returns 0 when memory ran out. */
static int sort_places(const int32_t *ids, int64_t n, int32_t *order) {
    uint64_t *from = malloc(n * 8), *to = malloc(n * 8);
    if (!from || !to) {
        free(from);
        free(to);
        return 0;
    }
    uint32_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        from[i] = ((uint64_t)(uint32_t)ids[i] << 32) | (uint32_t)i;
        if ((uint32_t)ids[i] > largest) largest = (uint32_t)ids[i];
    }
    for (int shift = 0; shift < 32 && (shift == 0 || largest >> shift); shift += DIGIT) {
        int64_t start[BUCKETS + 1] = {0};
        for (int64_t i = 0; i < n; i++) start[((from[i] >> (32 + shift)) & (BUCKETS - 1)) + 1]++;
        for (int d = 0; d < BUCKETS; d++) start[d + 1] += start[d];
        for (int64_t i = 0; i < n; i++) to[start[(from[i] >> (32 + shift)) & (BUCKETS - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)from[i];
    free(from);
    free(to);
    return 1;
}

/* Distinct ids, rising, to out_ids, and the sums of their gradients to out. Returns their number, -1 without memory. */
int64_t weft_sum_duplicates(const int32_t *ids, const float *grad, int64_t n, int64_t e, int64_t *out_ids, float *out) {
    int32_t *order = malloc(n * 4), *start = malloc((n + 1) * 4);
    if (!order || !start || !sort_places(ids, n, order)) {
        free(order);
        free(start);
        return -1;
    }
    int64_t u = 0;
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || ids[order[i]] != ids[order[i - 1]]) {
            out_ids[u] = ids[order[i]];
            start[u++] = (int32_t)i;
        }
    start[u] = (int32_t)n;
#pragma omp parallel for schedule(dynamic, 1024)
    for (int64_t k = 0; k < u; k++) {
        float *sum = out + k * e;
        memcpy(sum, grad + (int64_t)order[start[k]] * e, e * 4);
        for (int32_t i = start[k] + 1; i < start[k + 1]; i++) {
            const float *g = grad + (int64_t)order[i] * e;
            for (int64_t c = 0; c < e; c++) sum[c] += g[c];
        }
    }
    free(order);
    free(start);
    return u;
}

void weft_adam_rows(float *w, float *mean, float *square, const int64_t *ids, const float *grad, int64_t u, int64_t e,
                    float size, double beta1, double beta2, float eps) {
    const float new1 = 1 - beta1, keep2 = beta2, new2 = 1 - beta2;
#pragma omp parallel for schedule(static)
    for (int64_t k = 0; k < u; k++) {
        if (k + AHEAD < u) {
            int64_t next = ids[k + AHEAD] * e;
            __builtin_prefetch(w + next, 1);
            __builtin_prefetch(mean + next, 1);
            __builtin_prefetch(square + next, 1);
        }
        float *wr = w + ids[k] * e, *mr = mean + ids[k] * e, *sr = square + ids[k] * e;
        const float *g = grad + k * e;
        for (int64_t c = 0; c < e; c++) {
            mr[c] += new1 * (g[c] - mr[c]);
            sr[c] = keep2 * sr[c] + new2 * g[c] * g[c];
            wr[c] -= size * mr[c] / (sqrtf(sr[c]) + eps);
        }
    }
}

void weft_dot(const uint16_t *x, const float *w, int64_t b, int64_t d, float *out) {
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < b; r++) {
        const uint16_t *row = x + r * d;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < d; c++) sum += wide(row[c]) * w[c];
        out[r] = sum;
    }
}

/* x_grad = g w, w_grad = sum over rows of g x; rows in `parts` pieces whose sums lie in partial [parts, d]. */
void weft_dot_backward(const uint16_t *x, const float *w, const float *g, int64_t b, int64_t d, int64_t parts,
                       uint16_t *x_grad, float *partial) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        float *sum = partial + p * d;
        memset(sum, 0, d * 4);
        for (int64_t r = p * b / parts; r < (p + 1) * b / parts; r++) {
            const uint16_t *row = x + r * d;
            uint16_t *to = x_grad + r * d;
            float gr = g[r];
#pragma omp simd
            for (int64_t c = 0; c < d; c++) {
                sum[c] += gr * wide(row[c]);
                to[c] = narrow(gr * w[c]);
            }
        }
    }
}

/* u_grad = g x0, x0_grad (+)= g u, bias = sum over rows of u_grad; as weft_dot_backward in pieces. */
void weft_cross_backward(const uint16_t *g, const uint16_t *x0, const uint16_t *u, int64_t b, int64_t d, int64_t parts,
                         int first, uint16_t *u_grad, uint16_t *x0_grad, float *partial) {
#pragma omp parallel for schedule(static)
    for (int64_t p = 0; p < parts; p++) {
        float *sum = partial + p * d;
        memset(sum, 0, d * 4);
        for (int64_t r = p * b / parts; r < (p + 1) * b / parts; r++) {
            const uint16_t *gr = g + r * d, *xr = x0 + r * d, *ur = u + r * d;
            uint16_t *to = u_grad + r * d, *add = x0_grad + r * d;
#pragma omp simd
            for (int64_t c = 0; c < d; c++) {
                float gc = wide(gr[c]), product = gc * wide(xr[c]), old = first ? 0 : wide(add[c]);
                sum[c] += product;
                to[c] = narrow(product);
                add[c] = narrow(old + gc * wide(ur[c]));
            }
        }
    }
}
