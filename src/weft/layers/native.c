/* Loops of a training step that cost torch several passes over memory; native.py says what each computes, builds and
   calls them. Rows are contiguous; B, U, E are lengths as in native.py. */
#include <stdint.h>
#include <string.h>
#include <math.h>

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
    if (f != f) bits = 0x7fc00000; /* a NaN stays one */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
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
