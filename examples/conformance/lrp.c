/* A backend in C, without libraries: it answers the dense layers and convolutions of the conformance suite, in float32.
 *
 *     cc -std=c99 -O2 -o lrp lrp.c && mkdir OUT && ./lrp IN OUT
 *
 * IN is what `nplrp conformance --export IN` wrote. A case is read from its case.txt (keys and words) and contents.txt (arrays). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 4096, LINES = 64, WORD = 256 };

typedef struct { char key[WORD], value[WORD]; } Line;
typedef struct { int axes, shape[4]; float *values; } Array;
typedef struct { Line lines[LINES]; int count; Array a, kernel, bias, R; } Case;

static const char *word(const Case *c, const char *key) {
    for (int i = 0; i < c->count; i++)
        if (!strcmp(c->lines[i].key, key)) return c->lines[i].value;
    return "";
}
static double number(const Case *c, const char *key, double without) { return *word(c, key) ? atof(word(c, key)) : without; }
static void pair(const Case *c, const char *key, int *to, int several) {
    const char *at = word(c, key);
    for (int i = 0; i < several; i++) to[i] = (int)strtol(at, (char **)&at, 10);
}
static float pos(float x) { return x > 0 ? x : 0; }
static float neg(float x) { return x < 0 ? x : 0; }

static void fail(const char *what, const char *where) {
    fprintf(stderr, "%s: %s\n", where, what);
    exit(2);
}
static FILE *opened(const char *folder, const char *name, const char *end, const char *how) {
    char path[4 * WORD];
    snprintf(path, sizeof path, "%s/%s%s", folder, name, end);
    FILE *file = fopen(path, how);
    if (!file) fail("can't be opened", path);
    return file;
}

static void read_array(const char *folder, const char *line, Array *to) {
    char file[WORD], dtype[WORD];
    int used;
    if (sscanf(line, "%255s %255s %d%n", file, dtype, &to->axes, &used) != 3 || strcmp(dtype, "f4")) fail("expected arrays of f4", folder);
    int size = 1;
    for (int i = 0; i < to->axes; i++) {
        const char *at = line + used;
        to->shape[i] = (int)strtol(at, (char **)&at, 10);
        used = (int)(at - line);
        size *= to->shape[i];
    }
    FILE *in = opened(folder, file, "", "rb");
    to->values = malloc((size_t)size * sizeof(float));
    if (!to->values || fread(to->values, sizeof(float), (size_t)size, in) != (size_t)size) fail("is too short", file);
    fclose(in);
}

static void read_case(const char *folder, Case *c) {
    char line[2 * WORD];
    memset(c, 0, sizeof *c);
    FILE *in = opened(folder, "case.txt", "", "r");
    while (c->count < LINES && fgets(line, sizeof line, in))
        if (sscanf(line, "%255s %255[^\n]", c->lines[c->count].key, c->lines[c->count].value) == 2) c->count++;
    fclose(in);
    in = opened(folder, "contents.txt", "", "r");
    while (fgets(line, sizeof line, in)) {
        if (!strncmp(line, "a.bin", 5) && !c->a.values) read_array(folder, line, &c->a);
        if (!strncmp(line, "kernel.bin", 10)) read_array(folder, line, &c->kernel);
        if (!strncmp(line, "bias.bin", 8)) read_array(folder, line, &c->bias);
        if (!strncmp(line, "R.bin", 5)) read_array(folder, line, &c->R);
    }
    fclose(in);
}

/* The inputs that output k (counted from 0) sees, and their weights; returns how many, and sets its bias. */
static int row(const Case *c, int k, int *places, float *weights, float *bias) {
    const int *in = c->a.shape, *out = c->R.shape, *w = c->kernel.shape;
    int n = 0;
    if (!strcmp(word(c, "kind"), "dense")) {
        int image = k / w[1], unit = k % w[1];
        for (; n < w[0]; n++) places[n] = image * w[0] + n, weights[n] = c->kernel.values[n * w[1] + unit];
        *bias = c->bias.values ? c->bias.values[unit] : 0;
        return n;
    }
    int filter = k % out[3], x = k / out[3] % out[2], y = k / out[3] / out[2] % out[1], image = k / out[3] / out[2] / out[1];
    int stride[2], dilation[2], pads[4], group = filter / (w[3] / (in[3] / w[2]));
    pair(c, "stride", stride, 2), pair(c, "dilation", dilation, 2), pair(c, "pads", pads, 4);
    for (int i = 0; i < w[0]; i++)
        for (int j = 0; j < w[1]; j++) {
            int r = y * stride[0] + i * dilation[0] - pads[0], s = x * stride[1] + j * dilation[1] - pads[2];
            if (r < 0 || r >= in[1] || s < 0 || s >= in[2]) continue;
            for (int p = 0; p < w[2]; p++, n++) {
                places[n] = ((image * in[1] + r) * in[2] + s) * in[3] + group * w[2] + p;
                weights[n] = c->kernel.values[((i * w[1] + j) * w[2] + p) * w[3] + filter];
            }
        }
    *bias = c->bias.values ? c->bias.values[filter] : 0;
    return n;
}

/* One part of a rule: what input a gives through weight w; with a and `of_bias` set so, what of the bias counts. */
enum part { PLAIN, GAINS, LOSSES, UP, DOWN, SQUARE, ONES, BOX };
static float gives(enum part part, int split, float gamma, float low, float high, float a, float w) {
    float up = w + gamma * pos(w), down = w + gamma * neg(w);
    switch (part) {
    case PLAIN: return a * w;
    case GAINS: return split ? pos(a * w) : a * pos(w);
    case LOSSES: return split ? neg(a * w) : a * neg(w);
    case UP: return split ? pos(a) * up + neg(a) * down : a * up;
    case DOWN: return pos(a) * down + neg(a) * up;
    case SQUARE: return w * w;
    case ONES: return 1;
    case BOX: return a * w - low * pos(w) - high * neg(w);
    }
    return 0;
}
static float of_bias(enum part part, const char *how, float gamma, float b) {
    if (part == ONES || part == BOX || !*how || !strcmp(how, "none")) return 0;
    if (!strcmp(how, "raw")) return b;
    switch (part) {
    case GAINS: return pos(b);
    case LOSSES: return neg(b);
    case UP: return b + gamma * pos(b);
    case DOWN: return b + gamma * neg(b);
    case SQUARE: return b * b;
    default: return b;
    }
}

/* Writes relevance of the inputs to `found`; returns why not, or NULL. */
static const char *answer(const Case *c, float *found) {
    const char *rule = word(c, "rule"), *kind = word(c, "kind"), *stabiliser = word(c, "stabiliser"), *how = word(c, "bias");
    int conv = !strcmp(kind, "conv"), split = !strcmp(word(c, "split"), "1"), outputs = 1;
    if ((!conv && strcmp(kind, "dense")) || !c->kernel.values || c->a.axes != (conv ? 4 : 2)) return "dense layers and convolutions only";
    if (!strcmp(word(c, "branch"), "y")) return "gamma chooses its half by z";
    enum part parts[2] = {PLAIN, PLAIN};
    float share[2] = {1, 1}, gamma = (float)number(c, "gamma", 0), e = (float)number(c, "epsilon", 0);
    int several = 1, halves = 0;
    if (!strcmp(rule, "zplus")) parts[0] = GAINS;
    else if (!strcmp(rule, "alpha_beta")) {
        parts[0] = GAINS, parts[1] = LOSSES, several = 2;
        share[0] = (float)number(c, "alpha", 1), share[1] = -(float)number(c, "beta", 0);
    } else if (!strcmp(rule, "gamma")) parts[0] = UP, parts[1] = DOWN, several = split ? 2 : 1, halves = split;
    else if (!strcmp(rule, "wsquare")) parts[0] = SQUARE;
    else if (!strcmp(rule, "flat")) parts[0] = ONES;
    else if (!strcmp(rule, "zbox")) parts[0] = BOX;
    else if (strcmp(rule, "epsilon") && strcmp(rule, "zero")) return "no such rule";
    float low = (float)number(c, "low", 0), high = (float)number(c, "high", 0);
    for (int i = 0; i < c->R.axes; i++) outputs *= c->R.shape[i];
    for (int p = 0; p < several; p++)
        for (int k = 0; k < outputs; k++) {
            int places[MOST];
            float weights[MOST], bias, z = 0, true_z = 0;
            int n = row(c, k, places, weights, &bias);
            if (share[p] == 0) continue;
            for (int j = 0; j < n; j++) {
                z += gives(parts[p], split, gamma, low, high, c->a.values[places[j]], weights[j]);
                true_z += c->a.values[places[j]] * weights[j];
            }
            true_z += bias;
            z += of_bias(parts[p], how, gamma, bias);
            if (halves && !(p == 0 ? true_z > 0 : true_z < 0)) continue;
            float d = z;
            if (!strcmp(stabiliser, "drop") || (!strcmp(stabiliser, "sign") && e == 0)) {
                if (z == 0) continue;
            } else if (!strcmp(stabiliser, "sign")) d = z < 0 ? z - e : z + e;
            else if (!strcmp(stabiliser, "plus")) d = z + e;
            else if (!strcmp(stabiliser, "zero")) d = z == 0 ? e : z;
            else return "no such stabiliser";
            float s = share[p] * c->R.values[k] / d;
            for (int j = 0; j < n; j++) found[places[j]] += gives(parts[p], split, gamma, low, high, c->a.values[places[j]], weights[j]) * s;
        }
    return NULL;
}

int main(int count, char **arguments) {
    if (count != 3) fail("lrp IN OUT", "usage");
    char name[WORD], folder[4 * WORD];
    FILE *cases = opened(arguments[1], "cases.txt", "", "r");
    while (fscanf(cases, "%255s", name) == 1) {
        static Case c;
        snprintf(folder, sizeof folder, "%s/%s", arguments[1], name);
        read_case(folder, &c);
        int size = 1;
        for (int i = 0; i < c.a.axes; i++) size *= c.a.shape[i];
        float *found = calloc((size_t)size, sizeof(float));
        if (!found) fail("out of memory", name);
        const char *why = c.a.values ? answer(&c, found) : "layers of one input only";
        FILE *out = opened(arguments[2], name, why ? ".txt" : ".bin", "wb");
        if (why) fprintf(out, "%s\n", why);
        else fwrite(found, sizeof(float), (size_t)size, out);
        fclose(out);
        free(found), free(c.a.values), free(c.kernel.values), free(c.bias.values), free(c.R.values);
    }
    fclose(cases);
    return 0;
}
