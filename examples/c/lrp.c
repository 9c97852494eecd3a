/* Epsilon-LRP of a small convolutional network, in C, from nothing but exchange files (docs/golden.md).

   lrp IN OUT EPSILON TARGET
   reads IN/contents.txt  (nplrp golden export G --to raw --dtype float32 -w W -o IN)
   writes OUT/contents.txt (nplrp golden check G OUT)

   The network: conv1 (3x3, same, ReLU), pool1 (2x2), conv2 (3x3, same, ReLU), pool2 (2x2), flatten, fc1 (ReLU), predictions.
   Arrays are NHWC, kernels (height, width, in, out), dense weights (in, out), all float32. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int axes, shape[4]; float *v; } Array;

static void stop(const char *what, const char *which) { fprintf(stderr, "lrp: %s %s\n", what, which); exit(2); }

static int size_of(Array a) { int n = 1; for (int i = 0; i < a.axes; i++) n *= a.shape[i]; return n; }

static Array make(int axes, int n, int h, int w, int c) {
    Array a = {axes, {n, h, w, c}, NULL};
    if (axes == 2) a.shape[1] = c;
    a.v = calloc(size_of(a), sizeof(float));
    if (!a.v) stop("out of memory", "");
    return a;
}

/* A line of contents.txt: file, dtype, number of axes, lengths, name. */
static Array read_array(const char *folder, const char *wanted) {
    char path[4096], line[4096], file[64], dtype[8];
    snprintf(path, sizeof path, "%s/contents.txt", folder);
    FILE *table = fopen(path, "r");
    if (!table) stop("can't read", path);
    while (fgets(line, sizeof line, table)) {
        Array a = {0, {1, 1, 1, 1}, NULL};
        int at = 0, step = 0;
        if (sscanf(line, "%63s %7s %d%n", file, dtype, &a.axes, &at) != 3 || a.axes > 4) continue;
        for (int i = 0; i < a.axes; i++, at += step) if (sscanf(line + at, "%d%n", &a.shape[i], &step) != 1) stop("bad line", line);
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line + at + 1, wanted)) continue;
        if (strcmp(dtype, "f4")) stop("isn't float32:", wanted);
        fclose(table);
        snprintf(path, sizeof path, "%s/%s", folder, file);
        FILE *data = fopen(path, "rb");
        a.v = malloc(size_of(a) * sizeof(float));
        if (!data || !a.v || fread(a.v, sizeof(float), size_of(a), data) != (size_t)size_of(a)) stop("can't read", path);
        fclose(data);
        return a;
    }
    stop("there is no array", wanted);
    exit(2);
}

static void write_array(const char *folder, FILE *table, const char *name, Array a) {
    static int number = 0;
    char path[4096];
    snprintf(path, sizeof path, "%s/%04d.bin", folder, number);
    FILE *data = fopen(path, "wb");
    if (!data || fwrite(a.v, sizeof(float), size_of(a), data) != (size_t)size_of(a) || fclose(data)) stop("can't write", path);
    fprintf(table, "%04d.bin f4 %d", number++, a.axes);
    for (int i = 0; i < a.axes; i++) fprintf(table, " %d", a.shape[i]);
    fprintf(table, " %s\n", name);
}

/* The layers: each pair is a linear map and its transpose. */
#define AT(a, n, y, x, c) (a).v[(((n) * (a).shape[1] + (y)) * (a).shape[2] + (x)) * (a).shape[3] + (c)]

typedef struct { Array kernel, bias; } Layer;

/* transposed = 0: z[n,y,x,k] = b[k] + sum a w.   transposed = 1: c[n,y,x,j] = sum s w, the same weights the other way. */
static Array convolve(Array in, Layer l, int transposed) {
    int kh = l.kernel.shape[0], kw = l.kernel.shape[1], J = l.kernel.shape[2], K = l.kernel.shape[3];
    Array out = make(4, in.shape[0], in.shape[1], in.shape[2], transposed ? J : K);
    for (int n = 0; n < out.shape[0]; n++) for (int y = 0; y < out.shape[1]; y++) for (int x = 0; x < out.shape[2]; x++) {
        if (!transposed) for (int k = 0; k < K; k++) AT(out, n, y, x, k) = l.bias.v[k];
        for (int i = 0; i < kh; i++) for (int m = 0; m < kw; m++) {
            int v = transposed ? y - i + kh / 2 : y + i - kh / 2, u = transposed ? x - m + kw / 2 : x + m - kw / 2;
            if (v < 0 || u < 0 || v >= in.shape[1] || u >= in.shape[2]) continue;
            for (int j = 0; j < J; j++) for (int k = 0; k < K; k++) {
                float w = l.kernel.v[((i * kw + m) * J + j) * K + k];
                if (transposed) AT(out, n, y, x, j) += AT(in, n, v, u, k) * w;
                else AT(out, n, y, x, k) += AT(in, n, v, u, j) * w;
            }
        }
    }
    return out;
}

static Array multiply(Array in, Layer l, int transposed) {
    int J = l.kernel.shape[0], K = l.kernel.shape[1];
    Array out = make(2, in.shape[0], 1, 1, transposed ? J : K);
    for (int n = 0; n < in.shape[0]; n++) {
        if (!transposed) memcpy(out.v + n * K, l.bias.v, K * sizeof(float));
        for (int j = 0; j < J; j++) for (int k = 0; k < K; k++) {
            float w = l.kernel.v[j * K + k];
            if (transposed) out.v[n * J + j] += in.v[n * K + k] * w; else out.v[n * K + k] += in.v[n * J + j] * w;
        }
    }
    return out;
}

static Array relu(Array z) {
    for (int i = 0; i < size_of(z); i++) if (z.v[i] < 0) z.v[i] = 0;
    return z;
}

/* R = NULL: the maxima of 2x2 windows.   Else R goes to the first maximum of each window. */
static Array pool(Array a, const Array *R) {
    Array out = R ? make(4, a.shape[0], a.shape[1], a.shape[2], a.shape[3])
                  : make(4, a.shape[0], a.shape[1] / 2, a.shape[2] / 2, a.shape[3]);
    for (int n = 0; n < a.shape[0]; n++) for (int y = 0; y < a.shape[1] / 2; y++) for (int x = 0; x < a.shape[2] / 2; x++)
        for (int c = 0; c < a.shape[3]; c++) {
            int best = 0;
            for (int p = 1; p < 4; p++)
                if (AT(a, n, 2 * y + p / 2, 2 * x + p % 2, c) > AT(a, n, 2 * y + best / 2, 2 * x + best % 2, c)) best = p;
            if (R) AT(out, n, 2 * y + best / 2, 2 * x + best % 2, c) = AT(*R, n, y, x, c);
            else AT(out, n, y, x, c) = AT(a, n, 2 * y + best / 2, 2 * x + best % 2, c);
        }
    return out;
}

/* The four lines of LRP, for a layer with weights. */
static Array redistribute(Array R, Array a, Layer l, float epsilon) {
    Array (*linear)(Array, Layer, int) = l.kernel.axes == 4 ? convolve : multiply;
    Array z = linear(a, l, 0);                                                                  /* 1  what each output received */
    for (int k = 0; k < size_of(z); k++) z.v[k] = R.v[k] / (z.v[k] + (z.v[k] < 0 ? -epsilon : epsilon)); /* 2  s = R / (z + e sgn z) */
    Array c = linear(z, l, 1);                                                                  /* 3  carried back */
    for (int j = 0; j < size_of(c); j++) c.v[j] *= a.v[j];                                      /* 4  times what each input gave */
    return c;
}

static Layer layer(const char *folder, const char *name) {
    char kernel[256], bias[256];
    snprintf(kernel, sizeof kernel, "weights/%s/kernel", name);
    snprintf(bias, sizeof bias, "weights/%s/bias", name);
    return (Layer){read_array(folder, kernel), read_array(folder, bias)};
}

int main(int argc, char **argv) {
    if (argc != 5) stop("usage:", "lrp IN OUT EPSILON TARGET");
    float epsilon = strtof(argv[3], NULL);
    int target = atoi(argv[4]);
    Layer conv1 = layer(argv[1], "conv1"), conv2 = layer(argv[1], "conv2"), fc1 = layer(argv[1], "fc1"), top = layer(argv[1], "predictions");

    Array a0 = read_array(argv[1], "input");
    Array a1 = relu(convolve(a0, conv1, 0)), a2 = pool(a1, NULL), a3 = relu(convolve(a2, conv2, 0)), a4 = pool(a3, NULL);
    Array a5 = {2, {a4.shape[0], size_of(a4) / a4.shape[0]}, a4.v}; /* flatten: NHWC as it lies */
    Array a6 = relu(multiply(a5, fc1, 0)), z7 = multiply(a6, top, 0);
    if (target < 0 || target >= z7.shape[1]) stop("there is no output", argv[4]);

    Array R7 = make(2, z7.shape[0], 1, 1, z7.shape[1]);
    for (int n = 0; n < z7.shape[0]; n++) R7.v[n * z7.shape[1] + target] = z7.v[n * z7.shape[1] + target]; /* start: the target's logit */
    Array R6 = redistribute(R7, a6, top, epsilon), R5 = redistribute(R6, a5, fc1, epsilon), R4 = a4;
    R4.v = R5.v;
    Array R3 = pool(a3, &R4), R2 = redistribute(R3, a2, conv2, epsilon), R1 = pool(a1, &R2), R0 = redistribute(R1, a0, conv1, epsilon);

    char path[4096];
    snprintf(path, sizeof path, "%s/contents.txt", argv[2]);
    FILE *table = fopen(path, "w");
    if (!table) stop("can't write", path);
    const char *names[] = {"input", "conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "predictions"};
    Array relevances[] = {R0, R1, R2, R3, R4, R5, R6, R7}, activations[] = {a0, a1, a2, a3, a4, a5, a6};
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "relevances/%s", names[i]);
        write_array(argv[2], table, path, relevances[i]);
        snprintf(path, sizeof path, "activations/%s", names[i]);
        if (i < 7) write_array(argv[2], table, path, activations[i]); /* the last one is before the softmax here */
    }
    return fclose(table) ? 2 : 0;
}
